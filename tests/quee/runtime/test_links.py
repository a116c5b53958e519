"""A bundle may hold DVC's links into its project's cache, wherever that is, and no other link."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import IntegrityError
from quee.runtime.links import check_plain, project_cache
from quee.runtime.manifest import check_files, read_manifest
from quee.runtime.manifest import seal as seal_bundle

TYPES = ("symlink", "hardlink", "copy", "reflink,copy")
KNOWN = "0123456789abcdef0123456789abcdef"


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=folder, check=True)


DESCRIPTION = {
    "experiment": "toy", "budget": 0.2, "classes": ["a", "b"], "embedding": False, "policy": "plan", "preprocessing": None,
    "guarantees": [], "operating_points": [{"accuracy": 0.5, "cost": 1.0, "first": 0, "trade_off": 0.0, "policy": "plan"}],
    "precision_files": {}, "gates": {}, "graphs": {}, "canary": False, "ensembles": False,
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that looks like a DVC project's, with a bundle."""
    folder = tmp_path / "project"
    (folder / "artifacts" / "toy" / "bundle").mkdir(parents=True)
    (folder / ".dvc").mkdir()
    bundle = folder / "artifacts" / "toy" / "bundle"
    (bundle / "heads.safetensors").write_bytes(b"heads")
    (bundle / "README.md").write_bytes(b"card")
    seal_bundle(bundle, DESCRIPTION)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shared", [False, True], ids=["own cache", "shared cache"])
def test_a_bundle_is_read_as_dvc_placed_it(project: Path, kind: str, shared: bool) -> None:
    (project / ".dvc").rmdir()
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    dvc(project, "init")
    dvc(project, "config", "cache.type", kind)
    if shared:
        dvc(project, "cache", "dir", str(project.parent / "elsewhere"))
    dvc(project, "add", "artifacts/toy/bundle")
    bundle = project / "artifacts" / "toy" / "bundle"
    assert (bundle / "bundle.json").is_symlink() == (kind == "symlink")
    check_files(bundle, read_manifest(bundle))


LINKS: dict[str, Callable[[Path, Path], Path]] = {
    "out of the project": lambda project, bundle: project.parent / "secret",
    "to another file of the project": lambda project, bundle: project / "params.yaml",
    "to another bundle": lambda project, bundle: project / "other" / "heads.safetensors",
    "to a file of the bundle": lambda project, bundle: bundle / "README.md",
    "to DVC's settings": lambda project, bundle: project / ".dvc" / "config",
    "to a file in the cache that is no object": lambda project, bundle: project / ".dvc" / "cache" / "files" / "note",
    "to another project's cache": lambda project, bundle: (
        project.parent / ".dvc/cache/files/md5" / KNOWN[:2] / KNOWN[2:]
    ),
    "through the cache and out": lambda project, bundle: project / ".dvc/cache/files/md5/../../../../../secret",
    "to a folder": lambda project, bundle: project / ".dvc" / "cache",
    "to nothing": lambda project, bundle: project / "nowhere",
    "to an object that is gone": lambda project, bundle: project / ".dvc/cache/files/md5/ff" / KNOWN[2:],
    "to itself": lambda project, bundle: bundle / "heads.safetensors",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_elsewhere_is_refused(project: Path, name: str) -> None:
    bundle = project / "artifacts" / "toy" / "bundle"
    target = LINKS[name](project, bundle)
    for file in (project.parent / "secret", project / "other" / "heads.safetensors", project / ".dvc/cache/files/note"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"heads")
    if "another project" in name:
        target.parent.mkdir(parents=True)
        target.write_bytes(b"heads")
    link = bundle / "heads.safetensors"
    link.unlink()
    link.symlink_to(target)
    manifest = read_manifest(bundle)
    with pytest.raises(IntegrityError, match=r"heads\.safetensors is not a plain file"):
        check_files(bundle, manifest)


def test_a_link_outside_of_any_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(IntegrityError, match="it lies in no DVC project"):
        check_plain(tmp_path / "link")


@given(
    places=st.lists(st.sampled_from(["config", "config.local"]), unique=True),
    indent=st.sampled_from(["", "    ", "\t"]),
)
def test_the_last_setting_of_the_cache_holds(
    tmp_path_factory: pytest.TempPathFactory, places: list[str], indent: str
) -> None:
    project = tmp_path_factory.mktemp("project")
    (project / ".dvc").mkdir()
    for place in places:
        text = f"[core]\n{indent}remote = r\n['remote \"r\"']\n{indent}url = ../remote\n[cache]\n{indent}dir = ../{place}\n"
        (project / ".dvc" / place).write_text(text)
    expected = max(places, default=".dvc/cache")
    assert project_cache(project) == project.resolve() / expected
