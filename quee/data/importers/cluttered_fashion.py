"""Cluttered Fashion, drawn from Fashion-MNIST: its IDX files, or the data set here. Groups are the numbers of the garments."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from quee.data import DATASETS
from quee.data.importers.base import Importer, Plan, Source
from quee.data.importers.drawn import Drawn, Origin, plan_drawn
from quee.data.importers.idx import read_set
from quee.data.synthetic.cluttered_fashion import WORDS, draw
from quee.data.synthetic.draws import Draws

KNOWN = {
    "2cbc59191665e1ba3f2494648f17edac5974f748ab89fb2ae05597d658161f54": Drawn(
        train=(40_000, "aa6e8e12fa7622bd744328a6cce1a280fd68e2955c22c8b7b341d0f8c0201b0b"),
        test=(20_000, "e1818533f044acc72cf1e3e9e1ce32722fca09149ee7e70060cba6885031aa39"),
    )
}
"""Fashion-MNIST, by the digest of its pixels and labels."""


def plan(source: Source, _: object) -> Plan:
    """Raises QueeError for damaged files, UsageError for other ones than Fashion-MNIST's."""
    return plan_drawn(source, ORIGIN)


def digest(folder: Path) -> str:
    """SHA-256 of the garments' pixels and labels."""
    garments, labels, _ = _garments(str(folder))
    return hashlib.sha256(garments.tobytes() + labels.tobytes()).hexdigest()


def drawn(folder: str, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    garments, labels, training = _garments(folder)
    draws = Draws(f"cluttered_fashion/{split}", start, stop, WORDS)
    pixels, garment = draw(draws, garments, training, evaluation=split == "test")
    return pixels, labels[garment], garment


@functools.lru_cache(1)
def _garments(folder: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Garments (n, 28, 28) and labels (n,) uint8, the training ones first, and the number of these."""
    if any(Path(folder).glob("train-*.parquet")):
        from quee.data.source import open_dataset  # imports torch

        found = open_dataset(Path(folder), "fashion_mnist")
        pixels = np.asarray(found.decode(np.arange(len(found))))
        return pixels[..., 0], found.labels.astype(np.uint8), found.train_samples
    size = DATASETS["fashion_mnist"].size
    sets = [read_set(Path(folder), name, size) for name in ("train", "t10k")]
    images, labels = (np.concatenate([one[part] for one in sets]) for part in (0, 1))
    return images, labels, len(sets[0][0])


ORIGIN = Origin("cluttered_fashion", drawn, digest, KNOWN, seconds=0.003)
IMPORTER = Importer(lambda source: source.name == "cluttered_fashion", plan)
