"""The flow on the toy project: what it runs and shows, and its message when a stage fails."""

import json
import sys
import time
import urllib.request
from typing import Any

import pytest
from toy_project import Project

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
    kept = _post(
        f"{PREFECT_API_URL.value()}/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["quee-stages"]}}}
    )
    lines = str(kept[-1]["data"]).splitlines()
    assert lines[0] == "**3 ran**"
    assert [line.split()[1].strip("*:") for line in lines[2:]] == [*ALL, "MLflow", "dvc.lock"]
    assert lines[2].startswith("- **prepare@toy** ran in ") and lines[2].endswith(" s: forced")
    runs = _post(f"{PREFECT_API_URL.value()}/task_runs/filter", {"sort": "ID_DESC"})
    told = {(run["name"], run["state_name"], run["state"]["message"]) for run in runs}
    assert any(row[:2] == ("prepare@toy", "Ran") and row[2].endswith("because forced") for row in told)
    assert {"inputs", "tracking"} <= {name for name, _, _ in told}
    here.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    assert [row["did"] for row in quee_pipeline()] == ["unchanged", "ran", "ran"]
    runs = _post(f"{PREFECT_API_URL.value()}/task_runs/filter", {"sort": "ID_DESC"})
    whys = {run["state"]["message"].partition(", because ")[2] for run in runs if "@" in run["name"]}
    new = "new results of targets"
    assert {"settings, code and inputs are those of the last run", "targets.clusters: 20 → 30", new} <= whys


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_failure_names_the_stage_and_its_log(here: Project) -> None:
    from flows.pipeline import quee_pipeline
    from tasks.dvc.session import StageError

    here.write("fail", "")
    with pytest.raises(
        StageError, match=r"stage targets@toy failed: shard 3 is truncated\nlog: .quee/logs/"
    ) as failure:
        quee_pipeline()
    assert failure.value.exit_status == 4
    from prefect.settings import PREFECT_API_URL

    kept = _post(
        f"{PREFECT_API_URL.value()}/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["quee-stages"]}}}
    )
    text = str(kept[-1]["data"])
    assert text.startswith("**1 failed, 1 not run, 1 ran**") and "- **targets@toy** failed" in text
    assert "- Not run: evaluate@toy" in text


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_an_unchanged_run_says_so_and_adds_nothing_while_a_lost_server_costs_a_message(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.pipeline import quee_pipeline

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert quee_pipeline(return_state=True).name == "Completed"
    assert not (here.root / "mlflow.db").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    state = quee_pipeline(return_state=True)  # nothing to run, but lost results are tracked now
    assert state.name == "Unchanged"
    before = (here.root / "mlflow.db").read_bytes()
    began = time.monotonic()
    assert quee_pipeline(only_changed_data=True, return_state=True).message == "no data changed"
    assert quee_pipeline(return_state=True).name == "Unchanged"
    assert time.monotonic() - began < 60
    assert (here.root / "mlflow.db").read_bytes() == before
    here.write("data/digits/train-1.parquet", "more")
    here.do("dvc", "add", "-q", "data/digits")
    ran = {row["stage"] for row in quee_pipeline(only_changed_data=True) if row["did"] == "ran"}
    assert {"prepare@toy", "targets@toy"} <= ran  # `evaluate` reads targets that came out equal


@pytest.mark.slow
def test_the_flow_needs_no_server_and_its_status_is_the_stages(project: Project) -> None:
    output = project.do(sys.executable, "-m", "flows.pipeline", **ENVIRONMENT)
    assert [line.split()[:2] for line in output.splitlines()] == [[name, "ran"] for name in ALL]
    project.write("fail", "")
    output = project.do(sys.executable, "-m", "flows.pipeline", "--force", status=4, **ENVIRONMENT)
    assert "stage targets@toy failed" in output


def _post(address: str, body: dict[str, object]) -> list[dict[str, Any]]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found
