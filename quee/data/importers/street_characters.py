"""Street Characters, drawn from the table of glyphs in the embedded remote. Its groups are families of faces."""

import functools
import hashlib

import numpy as np

from quee.data.importers.base import Importer, Plan, Source
from quee.data.importers.drawn import Drawn, Origin, plan_drawn
from quee.data.synthetic.draws import Draws
from quee.data.synthetic.street_characters import WORDS, Glyphs, draw
from quee.errors import UsageError
from quee.work.io import content_digest

KNOWN = {
    "fa370ca9f48f8bcf6e0dbf5a4acecc913c6e740e938e0835c4b5fd11b371071a": Drawn(
        train=(40_000, "219f01c811c79e17c0acf3813dbe7d6af961d22a2d1417b34fc39a9067509020"),
        test=(20_000, "30ad1f467cfbd8b3659202d6d731007b79b256a00cdcdf7c9c55cb8b3e37e47d"),
    )
}
"""The table of glyphs, by its digest."""
HELD_OUT = 64
"""A family is for evaluation alone where the first byte of its number's MD5 is below: a quarter of the families."""


def plan(source: Source, _: object) -> Plan:
    """Raises UsageError for another file than the published table, before anything of it is parsed."""
    if source.path.is_dir():
        raise UsageError(f"{source.path} is a folder; {source.name} is drawn from one file, street_glyphs.npz")
    return plan_drawn(source, ORIGIN)


def drawn(table: str, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return draw(Draws(f"street_characters/{split}", start, stop, WORDS), _glyphs(table, split == "test"))


@functools.lru_cache(2)
def _glyphs(table: str, evaluation: bool) -> Glyphs:
    """The faces of the training or of the evaluation families."""
    with np.load(table, allow_pickle=False) as opened:
        pixels, family = opened["x"], opened["root"]
    held_out = np.array([is_held_out(int(number)) for number in family])
    return Glyphs(pixels[held_out == evaluation], family[held_out == evaluation])


def is_held_out(family: int) -> bool:
    return hashlib.md5(str(family).encode(), usedforsecurity=False).digest()[0] < HELD_OUT


ORIGIN = Origin("street_characters", drawn, content_digest, KNOWN, seconds=0.0015)
IMPORTER = Importer(lambda source: source.name == "street_characters", plan)
