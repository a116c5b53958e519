"""Images that lie in files or archives: taken over byte by byte, shuffled once, in shards, in constant memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from quee.data.importers import Options, Plan, Shard, shard_name
from quee.data.importers.layout import Folder, find_layout
from quee.data.importers.tables import check_tables
from quee.data.walk import IMAGE_SUFFIXES, SKIP_HINT, Found, Walk, class_name, faults_text, readable, shown, some
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
        """Contents in that order."""
        ...

    def origin(self, index: int) -> str:
        """What the user calls an image."""
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
            try:
                yield (self.folder / self.names[index]).read_bytes()
            except OSError as error:
                raise QueeError(f"{self.origin(index)}: cannot be read ({error.strerror})") from None

    def origin(self, index: int) -> str:
        return shown(self.folder / self.names[index])


def plan_set(split: str, images: Located, classes: tuple[str, ...]) -> list[Shard]:
    """Shards of about SHARD_BYTES. Images are shuffled here, so that shuffling a stream in windows suffices."""
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
            partial(_write, images, part, classes),
            partial(_origin, images, part),
        )
        for index, part in enumerate(parts)
    ]


def _origin(images: Located, order: np.ndarray, row: int) -> str:
    return images.origin(int(order[row]))


def _write(images: Located, order: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    contents = images.read(order)
    samples = (
        Sample(content, shown(images.names[index]), int(images.labels[index]))
        for index, content in zip(order, contents, strict=True)
    )
    write_images(path, samples, classes)


def plan_folders(walked: Walk, options: Options, preferred: Sequence[str]) -> Plan:
    """`train/CLASS/*` and an evaluation set in folders of any usual names, or `CLASS/*` alone. Classes are sorted.

    `preferred` has the roles of evaluation sets, the first one that is there counts unless `options.evaluation` says.
    """
    found, plan = walked.of(IMAGE_SUFFIXES), Plan(verify=True)
    plan.report.skipped.add(found.skipped)
    layout = find_layout(found, options.evaluation, preferred, plan.report)
    where = f"{shown(found.folder / layout.train.name)}"
    classes = _classes(layout.train, where)
    if len(classes) < 2:
        only = f"; is it the source itself, {where}/{classes[0]}?" if classes else ""
        raise QueeError(f"{where} has {len(classes)} class folders; expected 2 or more{only}")
    faults: list[str] = []
    sets = {"train": layout.train, **({"test": layout.evaluation} if layout.evaluation else {})}
    images = {split: folder_images(found, folder, classes, faults) for split, folder in sets.items()}
    if faults and not options.skip_bad:
        raise QueeError(faults_text(faults, "images cannot be read", SKIP_HINT))
    plan.report.bad += faults
    check_tables(walked, images["train"].names, classes, plan.report)
    for split, located in images.items():
        plan.shards += plan_set(split, located, classes)
    if layout.evaluation:
        plan.report.notes.append(f"evaluation set: {layout.evaluation}")
    return plan


def _classes(folder: Folder, where: str) -> tuple[str, ...]:
    """Names of the class folders in a set; raises QueeError where two are the same as text."""
    names = sorted(map(class_name, folder.children))
    if twice := [name for name, other in pairwise(names) if name == other]:
        raise QueeError(f"{where}: two class folders are called {twice[0]!r} when written as text")
    return tuple(names)


def folder_images(found: Walk, folder: Folder, classes: tuple[str, ...], faults: list[str]) -> FolderImages:
    """Images of the class folders in a set. Files that cannot be opened are left out and added to `faults`.

    Raises QueeError for class folders that are not among `classes`.
    """
    base = found.folder / folder.name
    _classes(folder, shown(base))  # refuses two of one name
    index = {name: label for label, name in enumerate(classes)}
    labels_of = {name: index[text] for name in folder.children if (text := class_name(name)) in index}
    if unknown := [
        class_name(name) for name, child in folder.children.items() if child.images and name not in labels_of
    ]:
        spelled = [c for c in classes if c.casefold() in {name.casefold() for name in unknown}]
        hint = f"; in other case: {some(spelled)}" if spelled else f"; its classes: {some(classes)}"
        raise QueeError(f"{shown(base)}: {some(f'{name}/' for name in unknown)}: no class of the training set{hint}")
    names, labels, sizes = [], [], []
    for file, name in _in_classes(found.files, folder):
        if why := readable(f"{base}/{name}"):
            faults.append(f"{shown(base / name)}: {why}")
            continue
        names.append(name)
        labels.append(labels_of[name.partition("/")[0]])
        sizes.append(file.size)
    return FolderImages(base, names, np.array(labels, np.int64), np.array(sizes, np.int64))


def _in_classes(files: list[Found], folder: Folder) -> Iterator[tuple[Found, str]]:
    """Files below the class folders of a set, each with its name in the set's folder."""
    beginning = f"{folder.name}/" if folder.name else ""
    for file in files:
        name = file.name.removeprefix(beginning)
        if file.name.startswith(beginning) and "/" in name:
            yield file, name
