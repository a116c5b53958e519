"""A tracked result of the toy project."""

import shutil
from pathlib import Path

import pytest
from toy_project import Project

from tasks.mlflow.tracking import track


@pytest.fixture(scope="session")
def tracked(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tracked result of code with uncommitted differences, including a new file; tests do not change it."""
    folder = tmp_path_factory.mktemp("tracked") / "project"
    shutil.copytree(template, folder, symlinks=True)
    project = Project(folder)
    project.write(".gitignore", project.read(".gitignore") + "/mlflow.db*\n/mlruns/\n")
    project.commit()
    project.edit("helpers/helper.py", "OFFSET = 1", "from helpers.more import OFFSET as OFFSET")
    project.write("helpers/more.py", "OFFSET = 5\n")
    project.edit("experiments/toy.yaml", "clusters: 20", "clusters: 30")
    project.quee("run")
    track(project.root)
    return project
