"""Prefect's settings and home, set before Prefect is imported."""

import os
from pathlib import Path

import pytest

from flows.quiet import DEFAULTS, HOME, settle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder in which nothing has run yet, with none of Prefect's settings."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for name in (*DEFAULTS, "PREFECT_HOME"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    return tmp_path


def test_the_home_is_made_with_its_parents(folder: Path) -> None:
    settle()
    assert os.environ["PREFECT_HOME"] == str(folder / HOME)
    assert (folder / HOME).is_dir()
    assert {name: os.environ[name] for name in DEFAULTS} == DEFAULTS


def test_a_home_of_the_readers_own_is_left_to_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(folder / "mine"))
    settle()
    assert sorted(path.name for path in folder.iterdir()) == ["dvc.yaml", "params.yaml"]


def test_outside_of_a_project_nothing_is_made(folder: Path) -> None:
    (folder / "dvc.yaml").unlink()
    settle()
    assert "PREFECT_HOME" not in os.environ
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]
