"""docs/settings.md says of every key what is checked, and is what the code says now."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from quee.settings.block import Block, Count, Listed, PrecisionName, Seed, Share
from quee.settings.experiment import BLOCKS, Experiment
from quee.settings.paths import Paths
from tasks.verbs.settings_page import _table, page

ROOT = Path(__file__).parents[3]


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == page(), "`make docs` writes it again"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_key_has_a_row_with_its_meaning(block: str) -> None:
    text = page().partition(f"\n## `{block}`\n")[2].partition("\n## ")[0]
    kind = Experiment.model_fields[block].annotation
    assert isinstance(kind, type) and issubclass(kind, Block)
    rows = {line.split("`")[1]: line.split(" | ") for line in text.splitlines() if line.startswith("| `")}
    for key in kind.model_fields:
        assert len(rows[key]) == 4 and len(rows[key][3].strip(" |")) > 4, key


class Inner(Block):
    """Keys of a key."""

    name: str
    """A text."""


class Outer(Block):
    """Values of every kind."""

    inner: Inner = Inner(name="x")
    """Keys."""
    share: Share = 0.25
    """A share
    in two lines."""
    seed: Seed = 0
    """A seed."""
    some: Annotated[tuple[Count, ...], Listed, Field(min_length=2)] = (1, 2)
    """A list."""
    word: Literal["a", "b"] | None = None
    """A word."""
    bits: PrecisionName = "w4a4"
    """A precision."""
    on: bool = True
    """A switch."""


def test_values_and_defaults_are_in_words() -> None:
    assert _table(Outer).splitlines()[2:] == [
        "| `inner` | keys, below | below | Keys. |",
        "| `share` | number from 0 to 1 | `0.25` | A share in two lines. |",
        "| `seed` | whole number from 0 below 2^31 | `0` | A seed. |",
        "| `some` | list of: whole number from 1 (at least 2) | `[1, 2]` | A list. |",
        "| `word` | `a` or `b` or `null` | `null` | A word. |",
        "| `bits` | precision | `w4a4` | A precision. |",
        "| `on` | `true` or `false` | `true` | A switch. |",
    ]
    assert "| `name` | text | none: it must be given | A text. |" in _table(Inner)
    assert "or `auto`, `{auto: N}` | `{auto: 3}`" in _table(Paths)
