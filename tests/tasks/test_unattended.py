"""Unattended runs: committing dvc.lock, changed data, and failures that are tried again."""

from pathlib import Path

import pytest
from toy_project import Project

from quee.errors import UsageError
from tasks.dvc.committing import commit_lock, put_away, take_out
from tasks.dvc.data_changes import changed_data, fetch_changed

IDENTITY = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")


@pytest.fixture
def committed(project: Project) -> Project:
    project.write("dvc.lock", "schema: '2.0'\nstages: {}\n")
    project.do("git", *IDENTITY, "add", "-A")
    project.do("git", *IDENTITY, "commit", "-q", "-m", "first")
    return project


def test_a_branch_gets_the_lock_and_the_checkout_stays_as_it_is(committed: Project) -> None:
    committed.write("dvc.lock", "schema: '2.0'\nstages: {a: 1}\n")
    committed.write("README.md", "not committed")
    before = committed.do("git", "status", "--porcelain", "--branch")
    head = committed.do("git", "rev-parse", "HEAD").strip()
    first = commit_lock(committed.root, "quee/results", "now")
    assert first
    assert committed.do("git", "status", "--porcelain", "--branch") == before
    assert committed.do("git", "show", "quee/results:dvc.lock") == committed.read("dvc.lock")
    assert committed.do("git", "diff", "--name-only", head, "quee/results").split() == ["dvc.lock"]
    assert commit_lock(committed.root, "quee/results", "again") is None
    committed.do("git", *IDENTITY, "commit", "-q", "-m", "second", "--allow-empty")
    committed.write("dvc.lock", "schema: '2.0'\nstages: {b: 1}\n")
    second = commit_lock(committed.root, "quee/results", "later")
    parents = committed.do("git", "rev-parse", "quee/results^1", "quee/results^2").split()
    assert parents == [first, committed.do("git", "rev-parse", "HEAD").strip()]
    assert second != first
    branch = committed.do("git", "symbolic-ref", "--short", "HEAD").strip()
    with pytest.raises(UsageError, match="is checked out"):
        commit_lock(committed.root, branch, "no")
    with pytest.raises(UsageError, match="no name for a branch"):
        commit_lock(committed.root, "a..b", "no")


def test_a_lock_put_away_comes_back_as_long_as_the_committed_one_stays(committed: Project) -> None:
    assert not take_out(committed.root)
    mine = "schema: '2.0'\nstages: {a: {outs: [{md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}]}}\n"
    committed.write("dvc.lock", mine)
    assert put_away(committed.root)
    assert committed.do("git", "status", "--porcelain", "dvc.lock") == ""
    assert take_out(committed.root)
    assert committed.read("dvc.lock") == mine
    put_away(committed.root)
    committed.write("dvc.lock", "schema: '2.0'\nstages: {other: {outs: []}}\n")
    assert not take_out(committed.root)


@pytest.mark.slow
def test_data_have_changed_when_their_pointer_is_not_the_last_results(project: Project) -> None:
    assert "no result yet" in changed_data(project.root, ["toy"])["toy"]
    project.quee("run")
    assert changed_data(project.root, ["toy"]) == {}
    pointer, lock = project.read("data.dvc"), project.read("dvc.lock")
    project.write("data/digits/train-1.parquet", "more")
    assert changed_data(project.root, ["toy"]) == {}, "what is not added is nobody's version yet"
    project.do("dvc", "add", "-q", "data/digits")
    project.do("dvc", "push", "-q", "data.dvc")
    assert list(changed_data(project.root, ["toy"])) == ["toy"]
    new = project.read("data.dvc")
    project.write("data.dvc", pointer)  # as someone has it whose colleague changed the data and who then pulls
    project.do("dvc", "checkout", "-q", "--force", "data.dvc")
    project.write("data.dvc", new)
    told: list[str] = []
    fetch_changed(project.root, "toy", told.append)
    assert told
    assert (project.root / "data/digits/train-1.parquet").is_file()
    project.write("data/digits/train-1.parquet", "somebody's work")
    fetch_changed(project.root, "toy", told.append)
    assert project.read("data/digits/train-1.parquet") == "somebody's work"
    assert project.read("dvc.lock") == lock


def test_every_deployment_calls_the_flow_with_parameters_it_has_one_run_at_a_time() -> None:
    import inspect

    import yaml

    from flows.pipeline import quee_pipeline

    content = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())
    known = set(inspect.signature(quee_pipeline.fn).parameters)
    assert [item["name"] for item in content["deployments"]] == ["nightly", "on-demand", "data-changed"]
    for item in content["deployments"]:
        assert set(item["parameters"]) <= known
        assert item["concurrency_limit"]["limit"] == 1
