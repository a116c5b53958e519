"""Resumable work is continued only by a run with the same key."""

import os
import time
from pathlib import Path

import pytest
from toy_project import Project, experiment

from quee.settings.targets import Targets
from quee.work.keys import LIBRARIES
from tasks import partial
from tasks.partial import KEPT_SECONDS, discard, newest, stage_digest
from tasks.stage import Stage, run_stage


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    project.write("artifacts/toy/prepare/deep/er/metrics.json", "{}")
    return project


def digest(stage: str = "targets", limit: int | None = None) -> str:
    return stage_digest(stage, "toy", Path("artifacts/toy"), limit)


@pytest.mark.parametrize("library", LIBRARIES)
def test_work_of_another_version_of_a_library_is_not_joined(
    here: Project, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest()
    known = dict(partial.versions())
    monkeypatch.setattr(partial, "versions", lambda: {**known, library: "0.0.1"})
    assert digest() != before


def test_work_under_another_default_is_not_joined(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = digest(), digest("evaluate")
    changed_default(monkeypatch, Targets, "shrinkage", 7.5)
    assert digest() != before
    assert digest("evaluate") == other


def changed_default(monkeypatch: pytest.MonkeyPatch, block: type, key: str, value: object) -> None:
    from quee.settings.experiment import Experiment

    monkeypatch.setattr(block.model_fields[key], "default", value)  # type: ignore[attr-defined]
    for model in (block, Experiment):
        model.model_rebuild(force=True)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def defaults_as_before():  # type: ignore[no-untyped-def]
    yield
    from quee.settings.experiment import Experiment

    for model in (Targets, Experiment):
        model.model_rebuild(force=True)


CHANGES = {
    "a setting": ("experiments/toy.yaml", experiment(targets="{clusters: 21}")),
    "code": ("helpers/helper.py", "OFFSET = 7"),
    "new code in depth": ("helpers/deep/er/new.py", ""),
    "an input in depth": ("artifacts/toy/prepare/deep/er/metrics.json", "[]"),
    "a new input in depth": ("artifacts/toy/prepare/deep/er/more.json", ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_work_behind_a_change_is_not_joined(here: Project, change: str) -> None:
    before = digest()
    here.write(*CHANGES[change])
    assert digest() != before


def test_another_limit_and_other_data_begin_anew(here: Project) -> None:
    before = digest("prepare")
    assert digest("prepare", limit=3) != before
    here.write("data/digits/more/deep/train-1.parquet", "images")
    assert digest("prepare") != before


def test_comments_and_other_blocks_leave_it(here: Project) -> None:
    before = digest()
    here.write("experiments/toy.yaml", "# Else.\n" + experiment(evaluate="{points: 200}"))
    assert digest() == before


def test_a_stage_goes_on_with_its_own_work_alone(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop(stage: Stage) -> None:
        seen.append(sorted(file.name for file in stage.partial.iterdir()))
        (stage.partial / "half").write_text("")
        raise KeyboardInterrupt

    for library in (None, None, "torch"):
        if library:
            known = dict(partial.versions())
            monkeypatch.setattr(partial, "versions", lambda: {**known, library: "0.0.1"})  # noqa: B023
        with pytest.raises(KeyboardInterrupt):
            run_stage("targets", stop, "toy")
    assert seen == [[], ["half"], []]


def test_old_work_is_removed_by_the_age_of_its_newest_file_at_any_depth(tmp_path: Path) -> None:
    long_ago = time.time() - 2 * KEPT_SECONDS
    for name in ("own", "old", "live"):
        (tmp_path / name / "shards" / "a").mkdir(parents=True)
        (tmp_path / name / "shards" / "a" / "shard-1").write_text("")
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (long_ago, long_ago))
        os.utime(tmp_path / name, (long_ago, long_ago))
    os.utime(tmp_path / "live" / "shards" / "a" / "shard-1")
    assert newest(tmp_path / "live") > time.time() - 100
    discard(tmp_path / "own")
    assert [folder.name for folder in tmp_path.iterdir()] == ["live"]
