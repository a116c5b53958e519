"""docs/architecture.md names existing files, and its walks are short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACEHOLDERS = r"NAME|STAGE|x/"
MOST = 20


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:quee|tasks|flows|tests)/[\w/]*(?:\.\w+)?)`", PAGE))))
def test_a_named_file_or_folder_exists(name: str) -> None:
    assert re.search(PLACEHOLDERS, name) or (ROOT / name).exists()


@pytest.mark.parametrize("walk", re.findall(r"^## (Walk .*)$", PAGE, re.MULTILINE))
def test_a_walk_has_few_files(walk: str) -> None:
    steps = re.findall(r"^\d+\. .*$", PAGE.split(f"## {walk}")[1].split("\n## ")[0], re.MULTILINE)
    assert 10 < len(set(re.findall(r"`((?:quee|tasks)/[\w/]+\.py)`", "\n".join(steps)))) <= MOST
