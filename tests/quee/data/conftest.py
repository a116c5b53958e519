import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for image_files.py, with helpers of these tests


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in: `data/` and `.quee/` are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
