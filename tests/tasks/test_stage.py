"""A stage writes its result whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_project import Project, experiment

from quee.errors import IntegrityError, UsageError
from tasks.partial import stage_digest
from tasks.stage import Stage, run_stage
from tasks.work import journal


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    return project


def write(text: str):  # type: ignore[no-untyped-def]
    def run(stage: Stage) -> None:
        (stage.out / "value.txt").write_text(text)

    return run


def fail(stage: Stage) -> None:
    (stage.out / "value.txt").write_text("half")
    (stage.partial / "part").write_text("kept")
    raise IntegrityError("shard 3 is truncated")


def result(here: Project) -> str:
    return here.read("artifacts/toy/prepare/value.txt")


def test_a_result_takes_the_place_of_the_one_before(here: Project) -> None:
    for text in ("first", "second"):
        run_stage("prepare", write(text), "toy")
        assert result(here) == text
    assert [path.name for path in (here.root / "artifacts/toy").iterdir()] == ["prepare"]


def test_a_failure_leaves_the_result_before_and_the_resumable_work(here: Project) -> None:
    run_stage("prepare", write("first"), "toy")
    with pytest.raises(IntegrityError):
        run_stage("prepare", fail, "toy")
    assert result(here) == "first"
    assert [file.read_text() for file in here.root.glob(".quee/partial/prepare/*/part")] == ["kept"]


def test_resumable_work_is_removed_on_success(here: Project) -> None:
    def run(stage: Stage) -> None:
        (stage.partial / "part").write_text("")
        (stage.out / "value.txt").write_text("")

    run_stage("prepare", run, "toy")
    assert not list(here.root.glob(".quee/partial/prepare/*"))


def test_a_stage_that_writes_nothing_has_failed(here: Project) -> None:
    with pytest.raises(IntegrityError, match="wrote nothing"):
        run_stage("prepare", lambda stage: None, "toy")


def test_a_bad_name_or_setting_creates_nothing(here: Project) -> None:
    for name, limit in (("tow", None), ("toy", 0)):
        with pytest.raises(UsageError):
            run_stage("prepare", write(""), name, limit)
    assert not (here.root / ".quee").exists()
    assert not (here.root / "artifacts").exists()


def test_the_digest_of_resumable_work_follows_settings_code_and_inputs_alone(here: Project) -> None:
    def digest() -> str:
        return stage_digest("targets", "toy", Path("artifacts/toy"))

    here.write("artifacts/toy/prepare/metrics.json", "{}")
    seen = [digest()]
    here.edit("experiments/toy.yaml", "# A toy.", "# Something else.")
    here.write("experiments/toy.yaml", experiment(evaluate="{points: 200}"))
    assert digest() == seen[0]
    for path, text in (
        ("experiments/toy.yaml", experiment(targets="{clusters: 21}")),
        ("helpers/helper.py", "OFFSET = 7"),
        ("helpers/new.py", ""),
        ("artifacts/toy/prepare/metrics.json", "[]"),
    ):
        here.write(path, text)
        seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_the_journal_tells_how_each_execution_ended(here: Project) -> None:
    run_stage("prepare", write("12345"), "toy")
    with pytest.raises(IntegrityError):
        run_stage("prepare", fail, "toy")
    failed, done = journal.records(here.root)
    assert (done["experiment"], done["stage"], done["status"], done["bytes"]) == ("toy", "prepare", "done", 5)
    assert (failed["status"], failed["exit"], failed["error"]) == ("failed", 4, "shard 3 is truncated")
    assert done["start"] <= done["end"] <= failed["end"]


def test_the_report_can_show_what_each_stage_took(here: Project) -> None:
    run_stage("prepare", write("12345"), "toy")
    with pytest.raises(IntegrityError):
        run_stage("prepare", fail, "toy")
    text = (here.root / journal.summary_file("toy")).read_text()
    rows = json.loads(text.removeprefix("queeStages(").removesuffix(");\n"))
    by_stage = {row[0]: row[1:] for row in rows}
    assert float(by_stage["prepare"][0]) >= 0
    assert by_stage["targets"][0] == "not run here"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["tow"], 2, "unknown experiment 'tow'"),
        ([], 2, "the following arguments are required"),
        (["toy"], 4, "missing folder: artifacts/toy/prepare"),
        (["--help"], 0, "Five parts, each computed once."),
    ],
)
def test_exit_statuses_and_messages(project: Project, arguments: list[str], status: int, message: str) -> None:
    output = project.do(sys.executable, "-m", "stages.targets", *arguments, status=status)
    assert message in output
    assert "Traceback" not in output


def test_an_unforeseen_fault_is_one_line_and_a_traceback_on_request(project: Project) -> None:
    project.edit("stages/prepare.py", "    size =", "    1 / 0\n    size =")
    output = project.do(sys.executable, "-m", "stages.prepare", "toy", status=1)
    assert output == "failed: ZeroDivisionError: division by zero (`python -m tasks.prepare toy --debug` shows where)\n"
    assert "Traceback" in project.do(sys.executable, "-m", "stages.prepare", "toy", "--debug", status=1)


def test_a_second_writer_waits_for_the_first(project: Project) -> None:
    project.do(sys.executable, "-m", "stages.prepare", "toy")
    first = project.start(sys.executable, "-m", "stages.targets", "toy", TOY_SECONDS="1")
    while not project.computed():
        time.sleep(0.02)
    output = project.do(sys.executable, "-m", "stages.targets", "toy")
    assert "waiting for it to end" in output
    assert first.wait() == 0
    assert json.loads(project.read("artifacts/toy/targets/metrics.json"))["parts"][1] == 22


def test_a_stage_ends_with_whoever_started_it(project: Project) -> None:
    project.do(sys.executable, "-m", "stages.prepare", "toy")
    # Tests may run under nohup, whose children are meant to survive.
    script = (
        "import signal, subprocess, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL);"
        "subprocess.run([sys.executable, '-m', 'stages.targets', 'toy'])"
    )
    parent = project.start(sys.executable, "-c", script, TOY_SECONDS="1")
    while not project.computed():
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    left = subprocess.run(["pgrep", "-g", str(parent.pid)], capture_output=True, text=True, check=False)
    for _ in range(100):
        if not left.stdout:
            break
        time.sleep(0.05)
        left = subprocess.run(["pgrep", "-g", str(parent.pid)], capture_output=True, text=True, check=False)
    assert not left.stdout
    assert len(project.computed()) < 5
