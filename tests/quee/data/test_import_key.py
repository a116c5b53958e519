"""An interrupted import goes on only from the same files, at every depth, by the same code and libraries."""

import os
from pathlib import Path

import numpy as np
import pytest

from quee.data import importers
from quee.data.importers import Options, Plan, Shard

PLAN = Plan([Shard("train-00000-of-00001.parquet", 3, lambda path: None, str, np.zeros(3, np.int64), ("a",))])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("train/cat/a.png", "train/cat/more/b.png", "labels.csv"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(name)
        os.utime(tmp_path / "source" / name, (1, 1))
    return tmp_path / "source"


CHANGES = {
    "size in depth": lambda f: (f / "train/cat/more/b.png").write_text("longer than it was, and newer"),
    "time in depth": lambda f: os.utime(f / "train/cat/more/b.png", (2, 2)),
    "a new file in depth": lambda f: (f / "train/cat/more/c.png").write_text(""),
    "a name in depth": lambda f: (f / "train/cat/more/b.png").rename(f / "train/cat/more/c.png"),
    "a file gone": lambda f: (f / "train/cat/a.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_source_is_imported_anew(source: Path, change: str) -> None:
    before = importers._key(source, Options(), PLAN)
    assert importers._key(source, Options(), PLAN) == before
    CHANGES[change](source)
    assert importers._key(source, Options(), PLAN) != before


def test_other_libraries_and_options_import_anew(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = importers._key(source, Options(), PLAN)
    assert importers._key(source, Options(extra=True), PLAN) != before
    known = importers.versions()
    monkeypatch.setattr(importers, "versions", lambda: {**known, "Pillow": "0.0.1"})
    assert importers._key(source, Options(), PLAN) != before
