"""Images in files or archives: copied byte by byte into shards, shuffled once, in constant memory."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quee.data.importers.base import Shard, shard_name
from quee.data.walk import IMAGE_SUFFIXES, shown
from quee.data.writer import Sample, write_images
from quee.errors import QueeError

SHARD_BYTES = 256 << 20
SEED = 0


class Located(Protocol):
    """Images of one set by position, without their contents."""

    names: list[str]
    labels: np.ndarray
    """(n,) int64."""
    sizes: np.ndarray
    """(n,) bytes."""

    def read(self, order: np.ndarray) -> Iterator[bytes]:
        """Reads the contents of images at given positions, in that order."""
        ...

    def origin(self, index: int) -> str:
        """The user's name of an image."""
        ...


def plan_set(
    split: str,
    images: Located,
    classes: tuple[str, ...],
    groups: np.ndarray | None = None,
    answers: Mapping[str, Any] | None = None,
) -> list[Shard]:
    """Shards of about SHARD_BYTES. Images are shuffled here, so that shuffling a stream in windows suffices.

    `groups` (n,) are written with the images, and what `answers` says of the network whose answers the labels are.
    """
    if len(set(images.names)) < len(images.names):
        names, counts = np.unique(np.array(images.names), return_counts=True)
        raise QueeError(f"{split}: {shown(names[counts > 1][0])} is there twice")
    if not images.names:
        raise QueeError(f"{split}: no images ({', '.join(IMAGE_SUFFIXES)})")
    order = np.random.default_rng(SEED).permutation(len(images.names))
    count = int(np.ceil(images.sizes.sum() / SHARD_BYTES)) or 1
    parts = np.array_split(order, min(count, len(order)))
    return [
        Shard(
            shard_name(split, index, len(parts)),
            len(part),
            partial(_write, images, part, classes, groups, answers),
            lambda row, part=part: images.origin(int(part[row])),  # type: ignore[misc]
            images.labels[part],
            classes,
        )
        for index, part in enumerate(parts)
    ]


def _write(
    images: Located,
    order: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray | None,
    answers: Mapping[str, Any] | None,
    path: Path,
) -> None:
    contents = images.read(order)
    samples = (
        Sample(
            content,
            shown(images.names[index]),
            int(images.labels[index]),
            None if groups is None else int(groups[index]),
        )
        for index, content in zip(order, contents, strict=True)
    )
    write_images(path, samples, classes, grouped=groups is not None, answers=answers)
