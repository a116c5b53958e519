"""Schedules on a real server, served on loopback, on the toy project."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from toy_project import ROOT, Project

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = str(probe.getsockname()[1])
API = f"http://127.0.0.1:{PORT}/api"
SETTINGS = {
    "QUEE_PREFECT_PORT": PORT,
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # two cron minutes, and far more on a busy machine


def ask(path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{API}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def runs(deployment: str) -> list[dict[str, Any]]:
    query = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found: list[dict[str, Any]] = ask("flow_runs/filter", query)
    return found


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 600) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(1)
    return found


@pytest.fixture
def served(project: Project) -> Project:
    """The toy project with the flows and deployments of this one, every deployment's cron turned to once a year."""
    for name in ("prefect.yaml", "flows"):
        project.do("cp", "-r", str(ROOT / name), ".")
    project.edit("prefect.yaml", "30 2 * * *", "1 0 1 1 *")
    project.edit("prefect.yaml", "*/15 * * * *", "0 0 1 1 *")
    return project


@contextmanager
def schedules(project: Project) -> Iterator["subprocess.Popen[str]"]:
    """`make schedules`, from the time it prints its address; it is ended at the end."""
    started = project.start(sys.executable, "-m", "flows.schedules", **SETTINGS)
    assert started.stdout is not None
    try:
        lines: list[str] = []
        while "Ctrl-C" not in (line := started.stdout.readline()):
            assert line, "".join(lines)
            lines.append(line)
        said = "".join(lines)
        for name, when in (("nightly", "cron"), ("on-demand", "on demand"), ("data-changed", "cron")):
            assert f"quee-pipeline/{name}: {when}" in said
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)


@pytest.fixture
def scheduled(served: Project) -> Iterator[Project]:
    """`make schedules` with `nightly` each minute."""
    served.edit("prefect.yaml", "1 0 1 1 *", "* * * * *")
    with schedules(served):
        yield served


def start_long_run(project: Project) -> tuple[str, list[psutil.Process]]:
    """Ask for a run that does not end during the test; returns its id and the processes of its stage."""
    project.edit("stages/targets.py", '"TOY_SECONDS", "0"', '"TOY_SECONDS", "300"')
    (on_demand,) = [d for d in ask("deployments/filter", {}) if d["name"] == "on-demand"]
    asked = {"parameters": {"force": True, "experiments": ["toy"]}, "state": {"type": "SCHEDULED"}}
    run = ask(f"deployments/{on_demand['id']}/create_flow_run", asked)
    return str(run["id"]), wait_for("the stage's process", lambda: processes(project, "stages.targets"))


def test_a_cron_fires_the_run_completes_the_next_is_unchanged_and_a_cancelled_one_leaves_no_process(
    scheduled: Project,
) -> None:
    def ended() -> list[dict[str, Any]]:
        return [run for run in runs("nightly") if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]

    first = wait_for("the first run", ended)[0]
    assert (first["state_name"], first["auto_scheduled"]) == ("Completed", True), first["state"]["message"]
    assert (scheduled.root / "artifacts/toy/evaluate/metrics.json").is_file()
    store = (scheduled.root / "mlflow.db").read_bytes()
    second = wait_for("the second run", lambda: ended()[1:])[0]
    assert second["state_name"] == "Unchanged", second["state"]["message"]
    assert second["total_run_time"] < 60
    assert (scheduled.root / "mlflow.db").read_bytes() == store
    (nightly,) = [d for d in ask("deployments/filter", {}) if d["name"] == "nightly"]
    for item in nightly["schedules"]:  # one run at a time is served
        request = urllib.request.Request(
            f"{API}/deployments/{nightly['id']}/schedules/{item['id']}",
            b'{"active": false}', {"Content-Type": "application/json"}, method="PATCH",
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=30).close()
    assert not ask("work_pools/filter", {})

    run, stage = start_long_run(scheduled)
    ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait_for("the processes' end", lambda: not any(alive(process) for process in stage))
    assert wait_for("the state", lambda: ask(f"flow_runs/{run}")["state_type"] == "CANCELLED")
    assert not processes(scheduled, "tasks.dvc.child")
    assert (scheduled.root / "artifacts/toy/targets/metrics.json").is_file(), "the earlier result is back"


def test_a_run_that_a_kill_left_running_is_crashed_after_the_next_start_and_no_deployment_is_made_twice(
    served: Project,
) -> None:
    with schedules(served) as killed:
        run, stage = start_long_run(served)
        killed.kill()
        wait_for("the processes' end", lambda: not any(alive(process) for process in stage))
    with schedules(served):
        assert wait_for("the state", lambda: ask(f"flow_runs/{run}")["state_type"] == "CRASHED")
        made = ask("deployments/filter", {})
        assert sorted((d["name"], len(d["schedules"])) for d in made) == [
            ("data-changed", 1),
            ("nightly", 1),
            ("on-demand", 0),
        ]


def test_a_server_that_does_not_start_says_why(served: Project) -> None:
    nowhere = {"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////nowhere/prefect.db"}
    said = served.do(sys.executable, "-m", "flows.schedules", status=1, **{**SETTINGS, **nowhere})
    assert "Prefect's server ended before it answered with status" in said
    assert "Application startup failed" in said or "unable to open database file" in said
    assert "log: .quee/logs/prefect-server.log" in said
    assert len(said.splitlines()) <= 3, said


def processes(project: Project, word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(word in part for part in process.cmdline()) and process.cwd() == str(project.root):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
