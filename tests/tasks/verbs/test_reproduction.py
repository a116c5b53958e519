"""A tracked result made again: on the toy project, with real git, DVC and MLflow."""

import json
import shutil
from pathlib import Path

import pytest
from toy_project import Project

from quee.errors import UsageError
from tasks.verbs.lineage import chain_of
from tasks.verbs.reproduction import make_again


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_made_again_after_the_code_went_on_and_ends_in_equal_digests(tracked: Project) -> None:
    run = chain_of(tracked.root, str(tracked.root / "artifacts/toy/evaluate")).run
    tracked.write("helpers/more.py", "OFFSET = 7\n")
    tracked.edit("experiments/toy.yaml", "clusters: 30", "clusters: 40")
    before = tracked.results()
    output = tracked.quee("reproduce", run)
    assert "the recorded digests came out of 3 stages" in output
    assert tracked.results() == before
    assert tracked.do("git", "worktree", "list").count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_clone_makes_a_run_again(tracked: Project, tmp_path: Path) -> None:
    run = chain_of(tracked.root, str(tracked.root / "artifacts/toy/evaluate")).run
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
    run = chain_of(tracked.root, str(tracked.root / "artifacts/toy/evaluate")).run
    targets = chain_of(tracked.root, str(tracked.root / "artifacts/toy/targets")).outputs["artifacts/toy/targets"]
    assert "the run rests on prepare, targets, evaluate" in tracked.quee("reproduce", run, "--from", "exits", status=2)
    output = tracked.quee("reproduce", run, "--from", "evaluate")
    assert f"targets@toy                          taken from DVC's cache here as recorded ({targets[:7]})" in output
    assert "the recorded digests came out of 1 stage; taken as recorded: targets" in output

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
    run = chain_of(tracked.root, str(tracked.root / "artifacts/toy/evaluate")).run
    patches = {file: file.read_bytes() for file in (tracked.root / "mlruns").rglob("uncommitted.patch")}
    for file in patches:
        file.unlink()
    with pytest.raises(UsageError, match="cannot be restored"):
        make_again(tracked.root, run, print)
    for file, content in patches.items():
        file.write_bytes(content)
