from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in: `data/` and `.quee/` are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
