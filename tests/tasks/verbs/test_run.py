"""The `quee` command."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from toy_project import Project

from quee.cli.main import resolve, verbs
from tasks.verbs.run import run

Told = Callable[..., str]
"""Calls `quee` in this process."""


def test_help_lists_every_verb_and_imports_none(project: Project) -> None:
    output = project.quee("--help")
    for name, (_, line) in verbs().items():
        assert name in output
        assert line.split(",")[0].split(";")[0][:30] in output
    code = "import sys; sys.argv = ['quee', '--help']; import atexit; atexit.register(lambda: print(*sys.modules)); "
    loaded = subprocess.run(
        [sys.executable, "-c", code + "from quee.cli.main import main; main()"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"torch", "dvc", "mlflow", "prefect", "pydantic", "numpy", "pyarrow"} & set(loaded)


def test_help_is_quick(project: Project) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        project.quee("--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(4)) < 0.5


def test_every_verb_is_there_and_explains_itself() -> None:
    for name, (where, _) in verbs().items():
        command = resolve(name, where)
        assert command.name == name
        assert command.help


def test_an_unknown_verb_or_option_is_answered_with_the_valid_ones(told: Told) -> None:
    assert "unknown verb 'rum' (did you mean 'run'?)" in told("rum", status=2)
    assert "--limt" in told("run", "--limt", "3", status=2)
    assert "Traceback" not in told("run", "nothing", status=2)


def test_a_smoke_run_is_not_tracked(told: Told) -> None:
    assert "leave out --track" in told("run", "--limit", "3", "--track", status=2)


def test_a_run_stops_behind_the_stage_that_is_asked_for(project: Project, told: Told) -> None:
    project.do("rm", "-rf", "artifacts")
    said = project.quee("run", "--until", "targets", "--force")
    made = {path.parent.name for path in (project.root / "artifacts" / "toy").glob("*/metrics.json")}
    assert made == {"prepare", "targets"}
    assert "stopped behind stage targets; `quee run` goes on" in said and "evaluate" not in said
    assert "targets" not in project.quee("run", "--until", "prepare")
    assert "--until target: no stage of this project; valid: prepare, targets, evaluate" in told(
        "run", "--until", "target", status=2
    )
    for other in (["--track"], ["--limit", "9"]):
        assert "leave out --" in told("run", "--until", "targets", *other, status=2)


def test_outside_a_project_it_says_so(project: Project, told: Told) -> None:
    project.do("rm", "params.yaml")
    assert "no params.yaml" in told("plan", status=2)


def test_experiments_are_listed_shown_and_added(project: Project, told: Told) -> None:
    listed = json.loads(told("experiments", "list", "--json"))
    assert listed == [{"name": "toy", "in_params": True, "about": "A toy."}]
    assert json.loads(told("experiments", "show", "toy", "--json"))["targets"]["clusters"] == 20
    told("experiments", "new", "other", "--like", "toy")
    assert project.read("experiments/other.yaml") == project.read("experiments/toy.yaml")
    assert "is there already" in told("experiments", "new", "other", "--like", "toy", status=2)
    assert "unknown dataset 'nope'" in told(
        "experiments", "new", "third", "--like", "toy", "--dataset", "nope", status=2
    )
    assert not (project.root / "experiments/third.yaml").exists()


def test_doctor_finds_damage(project: Project) -> None:
    checks = json.loads(project.quee("doctor", "--json"))
    assert all(check["ok"] for check in checks), checks
    project.write("data/digits/train-0.parquet", "other")
    assert "PROBLEM data: data/digits/train-0.parquet differs" in project.quee("doctor", status=4)
    project.write(".quee/scale.yaml", "device: tpu\n")
    assert (
        "PROBLEM machine: " in (said := project.quee("doctor", status=4))
        and "device='tpu'; valid: auto, cpu, cuda" in said
    )


def test_an_interruption_says_what_stays_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.dvc.session.session", cut)
    with pytest.raises(KeyboardInterrupt):
        run(["my photos"])
    assert "`quee run 'my photos'` goes on" in capsys.readouterr().err
