"""Small sources of the data sets that are drawn; what is drawn from them joins the known digests."""

from pathlib import Path

import numpy as np
from public_files import write_mnist

from quee.data.importers import cluttered_fashion, street_characters
from quee.data.importers.drawn import Draw, Drawn, digest_of
from quee.work.io import content_digest

TRAIN, TEST = 30, 20
"""Images of a small data set."""


def drawn(draw: Draw, source: Path) -> Drawn:
    """What a small data set must have, computed at once instead of in pieces."""
    sets = (("train", TRAIN), ("test", TEST))
    train, test = ((count, digest_of(zip(*draw(str(source), split, 0, count), strict=True))) for split, count in sets)
    return Drawn(train, test)


def write_garments(folder: Path) -> Path:
    """60 garments of noise, 40 of them for training."""
    write_mnist(folder, packed=True)
    cluttered_fashion.KNOWN[cluttered_fashion.digest(folder)] = drawn(cluttered_fashion.drawn, folder)
    return folder


def write_glyphs(path: Path, families: int = 12) -> Path:
    """Two faces of noise for each family."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * families, 62, 40, 40)).astype(np.uint8)
    np.savez_compressed(path, x=pixels, root=np.repeat(np.arange(families), 2))
    street_characters.KNOWN[content_digest(path)] = drawn(street_characters.drawn, path)
    return path
