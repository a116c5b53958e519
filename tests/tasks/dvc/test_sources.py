"""What is read from Python files, and what of it is kept between processes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.dvc import sources
from tasks.dvc.sources import KEPT, Source, keep, source

TEXT = """
import os
import quee.paths as paths
from typing import TYPE_CHECKING
from quee.hull import hull
if TYPE_CHECKING:
    from quee.cost import BitFlops
PLACES = {"one": "quee.api:fit", "other": "numpy:array"}

def later():
    from tasks.stage import Stage
"""
IMPORTED = (("quee.paths", None), ("quee.hull", "hull"), ("quee.api", None), ("tasks.stage", "Stage"))


@pytest.fixture(autouse=True)
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A project's folder, and a process that has read nothing."""
    monkeypatch.chdir(tmp_path)
    KEPT.parent.mkdir()
    Path("file.py").write_text(TEXT)
    another_process()
    yield
    another_process()


def another_process() -> None:
    for remembered in (sources._source, sources._kept, sources._used):
        remembered.cache_clear()


def test_imports_are_those_of_the_project_but_for_type_checkers() -> None:
    found = source(Path("file.py"))
    assert found.imported == IMPORTED
    assert found.passed_on == {"TYPE_CHECKING": ("typing", "TYPE_CHECKING"), "hull": ("quee.hull", "hull")}


def test_what_was_read_is_read_once_while_the_content_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = source(Path("file.py"))
    keep()
    another_process()
    read: list[str] = []
    inner = sources._read
    monkeypatch.setattr(sources, "_read", lambda text: read.append(text) or inner(text))
    assert source(Path("file.py")) == first and not read
    Path("file.py").write_text(TEXT + "OTHER = 1\n")
    assert source(Path("file.py")).digest != first.digest and len(read) == 1
    keep()
    another_process()
    assert source(Path("file.py")).digest != first.digest and len(read) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"by": 1}', "other reader", "null entries", "short entries"])
def test_what_was_kept_by_another_or_is_damaged_is_read_again(damage: str) -> None:
    first = source(Path("file.py"))
    keep()
    content = json.loads(KEPT.read_text())
    for name, value in (("null entries", None), ("short entries", ["digest"])):
        if damage == name:
            content["files"] = dict.fromkeys(content["files"], value)
    if damage == "other reader":
        content = {"by": "0", "files": {key: ["wrong", [], {}] for key in content["files"]}}
    KEPT.write_text(json.dumps(content) if " " in damage and damage[0] != "{" else damage)
    another_process()
    assert source(Path("file.py")) == first
    keep()
    another_process()
    assert source(Path("file.py")) == first


def test_nothing_is_kept_outside_of_a_project() -> None:
    KEPT.parent.rmdir()
    assert isinstance(source(Path("file.py")), Source)
    keep()
    assert not KEPT.parent.exists()
