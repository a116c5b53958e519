"""Shards of datasets that come as arrays of pixels."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from quee.data.importers.base import Shard, shard_name
from quee.data.writer import Sample, encode_png, write_images
from quee.errors import QueeError


def array_shard(
    split: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    source: str,
    names: Sequence[str] | None = None,
) -> Shard:
    """One file of uint8 images (n, h, w, c) and labels (n,), which must be indices of classes, under their original names."""
    if len(images) != len(labels):
        raise QueeError(f"{source}: {len(images)} images and {len(labels)} labels")
    if not len(images):
        raise QueeError(f"{source}: no images")
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(bad):
        valid = f"0 to {len(classes) - 1}"
        raise QueeError(f"{source}: label {labels[bad[0]]} of image {bad[0]} is out of range; valid: {valid}")
    if names is None:
        names = [f"{split}/{index:06d}.png" for index in range(len(images))]
    write = partial(_write, names, images, labels, classes)
    return Shard(shard_name(split, 0, 1), len(images), write, lambda row: f"{source}, image {row}", labels, classes)


def _write(names: Sequence[str], images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    def samples() -> Iterator[Sample]:
        for name, image, label in zip(names, images, labels, strict=True):
            yield Sample(encode_png(image), name, int(label))

    write_images(path, samples(), classes)
