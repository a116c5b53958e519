"""Nothing that a verb started outlives the verb: all verbs × signals, sent to the verb or only to its make."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from marked import MARK, answers, clear, free_port, lines_of, marked, new_mark, wait_until
from toy_project import ROOT, Project
from toy_project import project as project
from toy_project import template as template

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
SLOW_PARTS = {"TOY_SECONDS": "60"}
START_SECONDS, END_SECONDS = 240, 60


def computing(project: Project, port: int) -> bool:
    return lines_of(project.root / "computed.log") > 0


def answering(project: Project, port: int) -> bool:
    return answers(f"http://127.0.0.1:{port}/")


def scheduled(project: Project, port: int) -> bool:
    """The process that serves the deployments starts last."""
    return (project.root / ".quee/logs/prefect-runner.log").exists()


COMMANDS: dict[str, Callable[[Project, int], bool]] = {
    "quee run": computing,
    "quee run --limit 3": computing,
    "dvc repro": computing,
    "python -m flows.pipeline": computing,
    "python -m flows.schedules": scheduled,
    "quee ui --port PORT": answering,
    "quee serve BUNDLE --port PORT": answering,
    "make repro": computing,
    "make flow": computing,
    "make schedules": scheduled,
    "make ui": answering,
}
"""Commands that start processes or run until they are ended, each with a check that it is at work."""

QUICK = {"quee run"}
CASES = [
    pytest.param(command, number, marks=[] if command in QUICK else pytest.mark.slow, id=f"{command} {number.name}")
    for command in COMMANDS
    for number in SIGNALS
]


@pytest.fixture
def whole(project: Project) -> Project:
    """The toy project with this project's Makefile, flows and deployments."""
    for name in ("Makefile", "prefect.yaml", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, project.root / name)
        os.utime(project.root / name, (1, 1))
    (project.root / ".venv").symlink_to(sys.prefix)
    return project


@pytest.mark.timeout(START_SECONDS + END_SECONDS + 60)
@pytest.mark.parametrize(("command", "number"), CASES)
def test_nothing_outlives_a_verb(whole: Project, command: str, number: signal.Signals) -> None:
    port, mark = free_port() if command != "make ui" else 5000, new_mark()
    text = command.replace("PORT", str(port)).replace("BUNDLE", str(ROOT / "tests/fixtures/bundle_format_1"))
    if command == "make ui" and answers("http://127.0.0.1:5000/"):
        pytest.skip("port 5000 is taken on this machine")
    prefect = {"QUEE_PREFECT_PORT": str(port), "PREFECT_HOME": str(whole.root / ".quee/prefect")}
    started = whole.start(*text.split(), **{**SLOW_PARTS, **prefect, MARK: mark})
    try:
        wait_until(
            "it to be at work", lambda: started.poll() is not None or COMMANDS[command](whole, port), START_SECONDS
        )
        if started.poll() is not None:
            assert started.stdout is not None
            raise AssertionError(started.stdout.read())
        started.send_signal(number)
        wait_until(f"the end of {marked(mark)}", lambda: not marked(mark), END_SECONDS)
    finally:
        clear(started, mark)


def test_the_table_names_every_target_that_starts_something() -> None:
    text = (ROOT / "Makefile").read_text()
    supervised = next(line for line in text.splitlines() if line.endswith("export QUEE_SUPERVISED := 1"))
    targets = supervised.partition(":")[0].split()
    assert {f"make {target}" for target in targets} == {name for name in COMMANDS if name.startswith("make ")}


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if len(sys.argv) < 2:
    subprocess.Popen([sys.executable, __file__, "moved"], start_new_session=True)
    subprocess.Popen(["sh", "-c", f"{sys.executable} {__file__} orphaned & sleep 1"])
open(f"at-work-{sys.argv[1:]}", "w").close()
time.sleep(600)
"""
KEEPER = """
import sys, time
from tasks.work import lifeline
lifeline.GRACE_SECONDS = 1.0
kept = lifeline.keep([sys.executable, "stubborn.py"])
time.sleep(float(sys.argv[1]))
sys.exit(kept.end() % 256)
"""


@pytest.mark.parametrize("seconds", ["600", "4"], ids=["killed", "ended"])
def test_a_keeper_ends_what_ignores_signals_moved_away_or_lost_its_parent(tmp_path: Path, seconds: str) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    (tmp_path / "holder.py").write_text(KEEPER)
    mark = new_mark()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: mark}
    started = subprocess.Popen([sys.executable, "holder.py", seconds], cwd=tmp_path, env=environment, text=True)
    try:
        wait_until("all of them", lambda: len(list(tmp_path.glob("at-work-*"))) == 3, 60)
        if seconds == "600":
            started.kill()
        wait_until("their end", lambda: not marked(mark), 30)
        assert started.wait() == (-signal.SIGKILL if seconds == "600" else 128 + signal.SIGKILL)
    finally:
        clear(started, mark)
