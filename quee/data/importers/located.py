"""Images that lie in files or archives: taken over byte by byte, shuffled once, in shards, in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from quee.data.importers import Plan, Shard, shard_name
from quee.data.writer import Sample, write_images
from quee.errors import QueeError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHARD_BYTES = 256 << 20
SEED = 0
EVALUATION = ("val", "valid", "validation", "test")


class Located(Protocol):
    """Images of one set by position, without their contents."""

    names: list[str]
    labels: np.ndarray
    """(n,) int64."""
    sizes: np.ndarray
    """(n,) bytes."""

    def read(self, order: np.ndarray) -> Iterator[bytes]:
        """Contents in that order."""
        ...


@dataclass
class FolderImages:
    """Files of class folders."""

    folder: Path
    names: list[str]
    labels: np.ndarray
    sizes: np.ndarray

    def read(self, order: np.ndarray) -> Iterator[bytes]:
        for index in order:
            yield (self.folder / self.names[index]).read_bytes()


def plan_set(split: str, images: Located, classes: tuple[str, ...]) -> list[Shard]:
    """Shards of about SHARD_BYTES. Images are shuffled here, so that shuffling a stream in windows suffices."""
    if len(set(images.names)) < len(images.names):
        names, counts = np.unique(np.array(images.names), return_counts=True)
        raise QueeError(f"{split}: {names[counts > 1][0]} is there twice")
    if not images.names:
        raise QueeError(f"{split}: no images ({', '.join(SUFFIXES)})")
    order = np.random.default_rng(SEED).permutation(len(images.names))
    count = int(np.ceil(images.sizes.sum() / SHARD_BYTES)) or 1
    parts = np.array_split(order, min(count, len(order)))
    return [
        Shard(shard_name(split, index, len(parts)), len(part), partial(_write, images, part, classes))
        for index, part in enumerate(parts)
    ]


def _write(images: Located, order: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    contents = images.read(order)
    samples = (
        Sample(content, images.names[index], int(images.labels[index]))
        for index, content in zip(order, contents, strict=True)
    )
    write_images(path, samples, classes)


def plan_folders(source: Path) -> Plan:
    """`train/CLASS/*` and `val/CLASS/*` (or valid, validation, test), or `CLASS/*` alone. Classes are sorted."""
    train = source / "train" if (source / "train").is_dir() else source
    evaluation = [source / name for name in EVALUATION if train != source and (source / name).is_dir()][:1]
    classes = tuple(sorted(path.name for path in train.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(classes) < 2:
        raise QueeError(f"{train} has {len(classes)} class folders; expected 2 or more")
    shards = []
    for split, folder in [("train", train), *(("test", folder) for folder in evaluation)]:
        shards += plan_set(split, folder_images(folder, classes), classes)
    return Plan(shards, verify=True)


def folder_images(folder: Path, classes: tuple[str, ...]) -> FolderImages:
    """Raises QueeError for a class folder that is not among `classes`."""
    names, labels, sizes = [], [], []
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith("."):
            continue
        if child.name not in classes:
            raise QueeError(f"{child}: no class of the training set; {len(classes)} classes from {classes[0]!r} on")
        label = classes.index(child.name)
        for path in sorted(child.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                names.append(path.relative_to(folder).as_posix())
                labels.append(label)
                sizes.append(path.stat().st_size)
    return FolderImages(folder, names, np.array(labels, np.int64), np.array(sizes, np.int64))
