"""Keys of kept work: every file at every depth and every library that computes."""

import ast
import os
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from quee.work import keys
from quee.work.keys import LIBRARIES, contents_below, files_below, key_of, versions

ROOT = Path(__file__).parents[3]
NEUTRAL = {
    "pydantic": "checks settings, whose values are in the key",
    "ruamel": "reads YAML, whose values are in the key",
    "typer": "command lines",
    "rich": "tables and progress bars",
    "fsspec": "moves finished bytes, which bear their digest",
    "distributed": "decides where, not what",
    "threadpoolctl": "decides how many threads, not which code",
    "matplotlib": "draws whole pages; nothing drawn is resumed",
    "mlflow": "loads and registers whole bundles",
    "pandas": "tables at MLflow's door",
    "onnx": "writes whole bundles; nothing of them is resumed",
    "onnxruntime": "runs bundles",
    "openvino": "runs bundles",
    **dict.fromkeys(
        ("anyio", "fastapi", "h11", "prometheus_client", "python_multipart", "starlette", "uvicorn"), "serves bundles"
    ),
}
"""Packages that quee imports and whose version changes no unfinished work, each with the reason."""
UNIMPORTED = {"torchvision": "timm calls it"}


def imported() -> set[str]:
    """Top-level packages that any file of quee/ imports, inside functions too."""
    found = set()
    for file in (ROOT / "quee").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"quee"}


def test_every_library_that_computes_is_in_the_key() -> None:
    names = packages_distributions()
    computing = {names[package][0].lower() for package in imported() - set(NEUTRAL)}
    assert computing | set(UNIMPORTED) == {name.lower() for name in LIBRARIES}
    assert set(NEUTRAL) <= imported(), "an entry of NEUTRAL has no object"


def test_versions_are_those_installed() -> None:
    import numpy
    import torch

    assert versions()["numpy"] == numpy.__version__
    assert versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions(["no-such-distribution"]) == {"no-such-distribution": keys.ABSENT}


def tree(folder: Path) -> Path:
    for name in ("a.py", "sub/b.py", "sub/deep/er/c.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


CHANGES = {
    "a file's content": lambda f: (f / "a.py").write_text("A.py"),
    "content in depth": lambda f: (f / "sub/deep/er/c.py").write_text("sub/deep/er/C.py"),
    "a new file in depth": lambda f: (f / "sub/deep/d.py").write_text(""),
    "a file gone": lambda f: (f / "sub/b.py").unlink(),
    "a name in depth": lambda f: (f / "sub/deep/er/c.py").rename(f / "sub/deep/er/d.py"),
    "a folder's name": lambda f: (f / "sub/deep").rename(f / "sub/deeper"),
    "a linked folder's content": lambda f: (f.parent / "elsewhere/x").write_text("y"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_at_any_depth_changes_the_key(tmp_path: Path, change: str) -> None:
    folder = tree(tmp_path / "folder")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for _, file in files_below(folder):
        os.utime(file, (1, 1))
    before = key_of(contents_below(folder))
    assert key_of(contents_below(folder)) == before
    CHANGES[change](folder)
    assert key_of(contents_below(folder)) != before


def test_a_folder_is_known_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other")
    (other / "sub/__pycache__").mkdir()
    (other / "sub/__pycache__/b.pyc").write_text("left by Python")
    assert contents_below(one) == contents_below(other)
    assert [name for name, _ in files_below(one)] == ["a.py", "sub/b.py", "sub/deep/er/c.py"]


def test_code_that_is_not_there_is_no_key() -> None:
    assert keys.code("work/io.py", "errors.py")[0][1][0][0] == "."
    with pytest.raises(ValueError, match="no code in work/ios.py"):
        keys.code("work/ios.py")


def test_a_folder_linked_into_itself_ends(tmp_path: Path) -> None:
    tree(tmp_path / "folder")
    (tmp_path / "folder/sub/again").symlink_to(tmp_path / "folder")
    (tmp_path / "folder/nowhere").symlink_to(tmp_path / "not there")
    names = [name for name, _ in files_below(tmp_path / "folder")]
    assert names == ["a.py", "nowhere", "sub/b.py", "sub/deep/er/c.py"]
    assert ["nowhere", keys.ABSENT] in contents_below(tmp_path / "folder")
