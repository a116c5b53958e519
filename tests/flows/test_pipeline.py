"""The flow, on the toy project: what it runs, shows and says when a stage fails."""

import json
import sys
import time
import urllib.request

import pytest
from toy_project import ROOT, Project

ENVIRONMENT = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
ALL = ["prepare@toy", "targets@toy", "evaluate@toy"]


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    return project


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_the_flow_tells_what_each_stage_did_and_keeps_it_as_an_artifact(here: Project) -> None:
    from prefect.settings import PREFECT_API_URL

    from flows.pipeline import quee_pipeline

    assert [(row["stage"], row["did"]) for row in quee_pipeline()] == [(name, "ran") for name in ALL]
    assert {row["did"] for row in quee_pipeline(["toy"])} == {"unchanged"}
    assert {row["did"] for row in quee_pipeline(force=True)} == {"ran"}
    kept = _post(f"{PREFECT_API_URL.value()}/artifacts/filter", {"artifacts": {"key": {"any_": ["quee-stages"]}}})
    assert [row["stage"] for row in json.loads(str(kept[-1]["data"]))] == ALL


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_failure_names_the_stage_and_its_log(here: Project) -> None:
    from flows.pipeline import quee_pipeline
    from tasks.dvc import StageError

    here.write("fail", "")
    with pytest.raises(
        StageError, match=r"stage targets@toy failed: shard 3 is truncated\nlog: .quee/logs/"
    ) as failure:
        quee_pipeline()
    assert failure.value.exit_status == 4


@pytest.mark.slow
def test_the_flow_needs_no_server_and_its_status_is_the_stages(project: Project) -> None:
    output = project.do(sys.executable, "-m", "flows.pipeline", **ENVIRONMENT)
    assert [line.split()[:2] for line in output.splitlines()] == [[name, "ran"] for name in ALL]
    project.write("fail", "")
    output = project.do(sys.executable, "-m", "flows.pipeline", "--force", status=4, **ENVIRONMENT)
    assert "stage targets@toy failed" in output


@pytest.mark.slow
def test_a_run_triggered_at_the_schedules_server_completes(project: Project) -> None:
    for name in ("prefect.yaml", "flows"):
        project.do("cp", "-r", str(ROOT / name), ".")
    port = "42631"
    started = project.start(sys.executable, "-m", "flows.schedules", QUEE_PREFECT_PORT=port)
    assert started.stdout is not None
    try:
        lines = []
        while "Ctrl-C" not in (line := started.stdout.readline()):
            assert line, "".join(lines)
            lines.append(line)
        api = f"http://127.0.0.1:{port}/api"
        project.do("prefect", "deployment", "run", "quee-pipeline/nightly", "--watch", PREFECT_API_URL=api)
        assert (project.root / "artifacts/toy/evaluate/metrics.json").is_file()
        assert _post(f"{api}/deployments/filter", {})[0]["schedules"][0]["schedule"]["cron"] == "30 2 * * *"
        deadline = time.monotonic() + 90
        scheduled: list[object] = []
        while not scheduled and time.monotonic() < deadline:
            states = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
            scheduled = _post(f"{api}/flow_runs/filter", states)
            time.sleep(1)
        assert scheduled, "the cron made no run"
    finally:
        started.terminate()
        started.wait(60)


def _post(address: str, body: dict[str, object]) -> list[dict[str, object]]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, object]] = json.load(answer)
    return found
