"""A project outside of a clone: made whole, never overwritten, refused where it would be in another's way."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from quee.errors import UsageError
from tasks.dvc import dependencies
from tasks.dvc.dependencies import INSTALLED, code_root
from tasks.dvc.project import (
    ABLATIONS,
    CODE,
    PIPELINE,
    installed_text,
    make_project,
    note_installed,
    outdated,
    pipeline_text,
    project_files,
    refuse_place,
)
from tasks.mlflow.tracking import PYFUNC
from tasks.stages import STAGES, TEMPLATES, template

ROOT = Path(__file__).parents[3]


def test_a_project_has_the_repositorys_stages_and_depends_on_the_installed_code() -> None:
    own, made = (yaml.safe_load(text) for text in ((ROOT / PIPELINE).read_text(), pipeline_text()))
    assert CODE in (ROOT / PIPELINE).read_text()
    assert set(made) == {"stages"}
    settings = made["stages"].pop("settings")
    assert settings["do"].pop("deps") == [INSTALLED] and own["stages"]["settings"]["do"].pop("deps") == [
        "quee",
        "tasks",
    ]
    assert settings == own["stages"].pop("settings") and made["stages"] == own["stages"]
    files = project_files()
    assert [*own["stages"], *yaml.safe_load(files[ABLATIONS])["stages"]] == [
        name for name in STAGES if name != "settings"
    ]
    assert yaml.safe_load(files["params.yaml"]) == {"experiments": {}}


def test_every_file_of_a_project_is_the_repositorys_own() -> None:
    for link in TEMPLATES.iterdir():
        assert link.is_symlink() and link.resolve().parent in (ROOT, ROOT / "ablations")
    assert all(template(name).is_file() for name in (PIPELINE, ABLATIONS, "params.yaml", ".gitignore", ".dvcignore"))


def test_a_folder_becomes_a_project_once(tmp_path: Path) -> None:
    made = make_project(tmp_path / "new")
    root = tmp_path / "new"
    assert {".git", ".dvc", PIPELINE, "params.yaml", "experiments/", "data/", INSTALLED} <= set(made)
    assert "analytics = false" in (root / ".dvc" / "config").read_text()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    assert make_project(root) == [] and outdated(root) == []
    assert before == {path: path.read_bytes() for path in before}
    assert (code_root(root) / PYFUNC).is_file() and code_root(ROOT) == ROOT
    code = dependencies.code_of(root, "vit_digits")
    assert "tasks/features.py" in code["features"] and "quee/network/architectures/timm_vit.py" in code["backbone"]


def test_what_is_there_stays(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".gitignore").write_text("mine")
    (tmp_path / "below" / "params.yaml").write_text("experiments: {}\nmine: 1\n")
    made = make_project(tmp_path / "below")
    assert ".git" not in made and not (tmp_path / "below" / ".git").exists()
    lines = (tmp_path / "below" / ".gitignore").read_text().splitlines()
    assert lines[0] == "mine" and "/artifacts/" in lines
    assert (tmp_path / "below" / "params.yaml").read_text() == "experiments: {}\nmine: 1\n"
    assert make_project(tmp_path / "below") == []


def test_another_version_of_the_stages_is_said_and_stays(tmp_path: Path) -> None:
    make_project(tmp_path, with_git=False)
    assert not (tmp_path / ".git").exists()
    changed = (tmp_path / PIPELINE).read_text().replace("tasks.report", "tasks.reports")
    (tmp_path / PIPELINE).write_text(changed)
    said: list[str] = []
    assert make_project(tmp_path, with_git=False, notify=said.append) == []
    assert outdated(tmp_path) == [PIPELINE] and PIPELINE in said[0]
    assert (tmp_path / PIPELINE).read_text() == changed


def test_the_installed_code_is_noted_in_projects_alone(tmp_path: Path) -> None:
    (tmp_path / PIPELINE).write_text(pipeline_text())
    (tmp_path / INSTALLED).write_text("of another version")
    note_installed(tmp_path)
    assert (tmp_path / INSTALLED).read_text() == installed_text()
    assert set(json.loads(installed_text())) == {"digest", "quee"}
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / PIPELINE).write_text((ROOT / PIPELINE).read_text())
    note_installed(tmp_path / "clone")
    assert not (tmp_path / "clone" / INSTALLED).exists()


def in_the_way(root: Path) -> Path:
    (root / "tasks").mkdir()
    return root


def of_another_project(root: Path) -> Path:
    (root / PIPELINE).write_text("stages: {train: {cmd: python train.py}}\n")
    return root


def with_other_params(root: Path) -> Path:
    (root / "params.yaml").write_text("lr: 0.1\n")
    return root


def inside_a_project(root: Path) -> Path:
    (root / PIPELINE).write_text(pipeline_text())
    return root / "below"


def a_file(root: Path) -> Path:
    (root / "file").write_text("")
    return root / "file"


PLACES = {
    "a clone": (lambda _: ROOT, "is a clone of quee"),
    "inside a clone": (lambda _: ROOT / "data" / "new", "is a clone of quee"),
    "a file": (a_file, "is a file; give a folder"),
    "a module in the way": (in_the_way, "Python would import it in place of quee's module tasks"),
    "another DVC project": (of_another_project, "another DVC project, and nothing is overwritten"),
    "other parameters": (with_other_params, "without a mapping `experiments`"),
    "inside a project": (inside_a_project, "inside of the project"),
}


@pytest.mark.parametrize("which", PLACES)
def test_other_places_are_refused_in_a_line(which: str, tmp_path: Path) -> None:
    make, reason = PLACES[which]
    place = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=reason):
        make_project(place)
    with pytest.raises(UsageError, match=reason):
        refuse_place(place)
    assert sorted(tmp_path.rglob("*")) == before
