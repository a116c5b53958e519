"""From a number back to what made it, and made again: on the toy project, with real git, DVC and MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_project import Project

from quee.errors import IntegrityError, UsageError
from tasks.mlflow.tracking import track
from tasks.verbs import differences
from tasks.verbs.history import lineage as find
from tasks.verbs.reproduction import reproduce

IDENTITY = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")


def commit(project: Project) -> str:
    project.do("git", *IDENTITY, "add", "-A")
    project.do("git", *IDENTITY, "commit", "-q", "-m", "now")
    return project.do("git", "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def tracked(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A result made by code with uncommitted differences, one of them a new file, and tracked; tests leave it so."""
    folder = tmp_path_factory.mktemp("tracked") / "project"
    shutil.copytree(template, folder, symlinks=True)
    project = Project(folder)
    project.write(".gitignore", project.read(".gitignore") + "/mlflow.db*\n/mlruns/\n")
    commit(project)
    project.edit("helpers/helper.py", "OFFSET = 1", "from helpers.more import OFFSET as OFFSET")
    project.write("helpers/more.py", "OFFSET = 5\n")
    project.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    project.quee("run")
    track(project.root)
    return project


def lineage(project: Project, name: str) -> dict[str, Any]:
    return find(project.root, name).to_json()


def test_a_file_leads_to_its_run_and_the_run_to_everything_that_made_it(tracked: Project) -> None:
    head = tracked.do("git", "rev-parse", "HEAD").strip()
    found = lineage(tracked, str(tracked.root / "artifacts/toy/evaluate/metrics.json"))
    assert (found["stage"], found["commit"], found["dirty"]) == ("evaluate", head, True)
    stages, inputs, made = found["stages"], found["inputs"], found["made"]
    assert [stage["stage"] for stage in stages] == ["prepare", "targets"]
    assert set(inputs) == {
        "data/digits",
        "helpers",
        *(f"stages/{s}.py" for s in ("prepare", "targets", "evaluate")),
    }
    assert made["machine.cores"]
    assert made["versions.python"]
    assert stages[1]["settings"]["targets.clusters"] == "30"
    again = lineage(tracked, str(found["run"]))
    assert again == found
    text = tracked.quee("lineage", str(found["run"]))
    assert f"git {head} and uncommitted differences" in text


def test_what_has_no_lineage_is_refused(tracked: Project) -> None:
    file = tracked.root / "artifacts/toy/targets/metrics.json"
    right = file.read_text()
    file.write_text('{"parts": [1]}')
    with pytest.raises(IntegrityError, match="of no tracked result"):
        lineage(tracked, str(file))
    file.write_text(right)
    with pytest.raises(UsageError, match="neither an MLflow run id nor"):
        lineage(tracked, "0" * 31)
    with pytest.raises(UsageError, match="unknown MLflow run"):
        lineage(tracked, "0" * 32)
    with pytest.raises(UsageError, match="neither under artifacts"):
        lineage(tracked, str(tracked.root / "dvc.yaml"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_made_again_after_the_code_went_on_and_ends_in_equal_digests(tracked: Project) -> None:
    run = str(lineage(tracked, str(tracked.root / "artifacts/toy/evaluate"))["run"])
    tracked.write("helpers/more.py", "OFFSET = 7\n")
    tracked.edit("experiments/toy.yaml", "clusters: 30", "clusters: 40")
    before = tracked.results()
    output = tracked.quee("reproduce", run)
    assert "all 3 stages came out with the recorded digests" in output
    assert tracked.results() == before
    assert tracked.do("git", "worktree", "list").count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_clone_makes_a_run_again(tracked: Project, tmp_path: Path) -> None:
    run = str(lineage(tracked, str(tracked.root / "artifacts/toy/evaluate"))["run"])
    tracked.do("git", "clone", "-q", str(tracked.root), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    store = f"sqlite:///{tracked.root / 'mlflow.db'}"
    answer = clone.quee("reproduce", run, "--json", MLFLOW_TRACKING_URI=store)
    compared = json.loads(answer[answer.index("{") :])
    assert compared["equal"]
    assert [stage["stage"] for stage in compared["stages"]] == ["prepare", "targets", "evaluate"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_made_again_from_a_stage_on_with_the_results_before_it_as_recorded(
    tracked: Project, tmp_path: Path
) -> None:
    run = str(lineage(tracked, str(tracked.root / "artifacts/toy/evaluate"))["run"])
    targets = lineage(tracked, str(tracked.root / "artifacts/toy/targets"))["outputs"]["artifacts/toy/targets"]
    assert "the run rests on prepare, targets, evaluate" in tracked.quee("reproduce", run, "--from", "exits", status=2)
    output = tracked.quee("reproduce", run, "--from", "evaluate")
    assert f"targets@toy                          taken from DVC's cache here as recorded ({targets[:7]})" in output
    assert "all 1 stages came out with the recorded digests; taken as recorded: targets" in output

    tracked.do("git", "clone", "-q", str(tracked.root), str(tmp_path / "clone"))
    clone, store = Project(tmp_path / "clone"), f"sqlite:///{tracked.root / 'mlflow.db'}"
    output = clone.quee("reproduce", run, "--from", "evaluate", status=4, MLFLOW_TRACKING_URI=store)
    assert f"artifacts/toy/targets ({targets}) is neither in DVC's cache of this checkout nor on a remote" in output
    cache = tmp_path / "cache"
    shutil.copytree(tracked.root / ".dvc/cache", cache)
    clone.do("dvc", "remote", "add", "--local", "--default", "other", str(cache))
    answer = clone.quee("reproduce", run, "--from", "evaluate", "--json", MLFLOW_TRACKING_URI=store)
    made = json.loads(answer[answer.index("{") :])
    assert made["equal"]
    assert [stage["stage"] for stage in made["stages"]] == ["evaluate"]
    assert made["taken"] == {"targets": "a DVC remote"}
    (damaged,) = [file for file in cache.rglob("*") if file.is_file() and b"parts" in file.read_bytes()]
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes().replace(b"3", b"4"))
    shutil.rmtree(clone.root / ".dvc" / "cache", ignore_errors=True)
    output = clone.quee("reproduce", run, "--from", "evaluate", status=4, MLFLOW_TRACKING_URI=store)
    assert "is neither in DVC's cache of this checkout nor on a remote" in output


def test_code_that_is_no_longer_to_be_had_is_refused(tracked: Project) -> None:
    run = str(lineage(tracked, str(tracked.root / "artifacts/toy/evaluate"))["run"])
    patches = {file: file.read_bytes() for file in (tracked.root / "mlruns").rglob("uncommitted.patch")}
    for file in patches:
        file.unlink()
    with pytest.raises(UsageError, match="cannot be restored"):
        reproduce(tracked.root, run, print)
    for file, content in patches.items():
        file.write_bytes(content)


def test_differences_have_a_limit_and_are_none_when_all_is_committed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differences.snapshot(project.root) is None  # no commit yet
    head = commit(project)
    clean = differences.snapshot(project.root)
    assert clean == differences.Snapshot(head, "none")
    project.write("new.bin", "x" * 2000)
    kept = differences.snapshot(project.root)
    assert kept
    assert b"new.bin" in (differences.read_patch(project.root, kept.patch) or b"")
    assert "new.bin" in project.do("git", "status", "--porcelain")  # the index is as it was
    monkeypatch.setattr(differences, "LIMIT", 1000)
    large = differences.snapshot(project.root)
    assert large
    assert large.patch == "not kept: 2,000 bytes, more than 1,000"
