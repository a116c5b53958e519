"""flows → tasks → quee, and each orchestrator in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for folder in ("quee", "tasks", "flows") for file in (ROOT / folder).rglob("*.py"))

MAY_IMPORT = {
    "prefect": ("flows/",),
    "dvc": ("tasks/dvc/",),
    "mlflow": ("tasks/mlflow/", "quee/runtime/pyfunc.py"),
    "flows": ("flows/",),
    "tasks": ("flows/", "tasks/"),
}


def imported(file: Path) -> Iterator[str]:
    """Top-level packages a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_only_its_own_place_imports(package: str) -> None:
    names = [file.relative_to(ROOT).as_posix() for file in FILES if package in imported(file)]
    assert [name for name in names if not name.startswith(MAY_IMPORT[package])] == []
    assert names, f"nothing imports {package}: the rule has no object"
