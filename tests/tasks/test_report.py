"""Stage `report` on a small project: the same page twice, with images where they may be shown and without them else."""

import re

import pytest
from tiny_project import Tiny
from tiny_project import tiny as tiny

from quee.work.io import file_digest
from tasks import examples

STAGES = (
    "settings", "prepare", "backbone", "tree", "quantize", "exits", "features", "targets", "predictors", "policies", "evaluate",
)  # fmt: skip


def page(project: Tiny) -> str:
    return (project.run("report") / "report" / "report.html").read_text()


def test_the_page_has_images_of_the_test_set_and_is_the_same_bytes_twice(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tiny.run(*STAGES)
    first = page(tiny)
    assert first == page(tiny)
    assert len(first) < 2_000_000
    records = "../../../.quee/journal/tiny.js"
    sources = re.findall(r'\bsrc="([^"]*)"', first)
    assert {source.partition(";")[0] for source in sources} == {"data:image/webp", records}
    assert first.count("easiest, ") == first.count("hardest, ") == 2
    assert "of each class" in first and "Left out" not in first
    assert 'id="float"' in first and "--accuracy-loss 0.5" in first
    assert f"quee serve {results}/bundle" in first
    for file in ("evaluate/metrics.json", "features/tree.json", "policies/auto.safetensors"):
        assert file_digest(results / file) in first
    drawn = {path.stem for path in (results / "report" / "figures").iterdir()}
    assert {"curves", "gains", "usage", "others"} <= drawn

    monkeypatch.setattr(examples, "PAIRS", 1)
    capped = page(tiny)
    assert capped.count("easiest, ") == 1 and "Left out, to keep the page small: 1 more class" in capped

    tiny.write(report={"images": False})
    tiny.run("settings")
    bare = page(tiny)
    assert re.findall(r'\bsrc="([^"]*)"', bare) == [records] and "of the images" in bare
