"""Class folders: each image of a class lies in the folder of that name.

A table beside the images suggests that the folders are not classes, so tables are examined too.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from quee.data.class_order import note_on, ordered
from quee.data.importers.base import Importer, Plan, Source
from quee.data.importers.groups import table_groups
from quee.data.importers.layout import Folder, find_layout
from quee.data.importers.located import plan_set
from quee.data.importers.report import Report
from quee.data.importers.sets import preferred_roles
from quee.data.walk import IMAGE_SUFFIXES, SKIP_HINT, Found, Walk, class_name, faults_text, readable, shown, some
from quee.errors import QueeError

TABLES = (".csv", ".tsv")
MOST_BYTES = 64 << 20
"""Larger tables are not examined."""
LOOKED_FOR = 200
"""Number of images whose names are searched in a table."""
_BETWEEN = re.compile(r"[\s,;|\"'/\\]+")


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


def plan(source: Source, walked: Walk) -> Plan:
    """`train/CLASS/*` and an evaluation set in folders of any usual names, or `CLASS/*` alone.

    Classes are sorted as text unless another order is asked for; where numbers in their names give another order, the
    report says so.
    """
    options, preferred = source.options, preferred_roles(source.dataset.evaluation)
    found, plan = walked.of(IMAGE_SUFFIXES), Plan(verify=True)
    plan.report.skipped.add(found.skipped)
    layout = find_layout(found, options.evaluation, preferred, plan.report)
    where = f"{shown(found.folder / layout.train.name)}"
    classes = _classes(layout.train, where)
    if len(classes) < 2:
        only = f"; is it the source itself, {where}/{classes[0]}?" if classes else ""
        raise QueeError(f"{where} has {len(classes)} class folders; expected 2 or more{only}")
    if options.class_order is not None:
        classes = ordered(classes, options.class_order)
    elif note := note_on(classes):
        plan.report.notes.append(note)
    faults: list[str] = []
    sets = {"train": layout.train, **({"test": layout.evaluation} if layout.evaluation else {})}
    images = {split: folder_images(found, folder, classes, faults) for split, folder in sets.items()}
    if faults and not options.skip_bad:
        raise QueeError(faults_text(faults, "images cannot be read", SKIP_HINT))
    plan.report.bad += faults
    table = None if options.group is None else Path(options.group)
    check_tables(walked, images["train"].names, classes, plan.report, table)
    groups = None
    if table is not None:
        below = {split: _below(sets[split], located.names) for split, located in images.items()}
        groups = table_groups(table, below)
        groups.told({split: [split] for split in below}, plan.report, shown(table))
    for split, located in images.items():
        plan.shards += plan_set(split, located, classes, None if groups is None else groups.by_set[split])
    if layout.evaluation:
        plan.report.notes.append(f"evaluation set: {layout.evaluation}")
    return plan


IMPORTER = Importer(lambda source: source.walked, plan, ("evaluation", "class_order", "group"), "class folders")


def _below(folder: Folder, names: list[str]) -> list[str]:
    """Paths below the source of the images of a set, given by their names in its folder."""
    return [f"{folder.name}/{name}" if folder.name else name for name in names]


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
    for file, name in openable(base, _in_classes(found.files, folder), faults):
        names.append(name)
        labels.append(labels_of[name.partition("/")[0]])
        sizes.append(file.size)
    return FolderImages(base, names, np.array(labels, np.int64), np.array(sizes, np.int64))


def openable(base: Path, files: Iterable[tuple[Found, str]], faults: list[str]) -> Iterator[tuple[Found, str]]:
    """The files that can be opened, each with its name in the folder `base`; the others are added to `faults`."""
    for file, name in files:
        if why := readable(f"{base}/{name}"):
            faults.append(f"{shown(base / name)}: {why}")
        else:
            yield file, name


def _in_classes(files: list[Found], folder: Folder) -> Iterator[tuple[Found, str]]:
    """Files below the class folders of a set, each with its name in the set's folder."""
    beginning = f"{folder.name}/" if folder.name else ""
    for file in files:
        name = file.name.removeprefix(beginning)
        if file.name.startswith(beginning) and "/" in name:
            yield file, name


def check_tables(
    found: Walk, images: Sequence[str], classes: Sequence[str], report: Report, groups: Path | None = None
) -> None:
    """Name in the report the tables that name the images, because labels in tables are not read; not the one of `groups`.

    Raises QueeError where such a table knows none of the folders that would be classes.
    """
    sample = [PurePosixPath(name) for name in images[:: max(1, len(images) // LOOKED_FOR)]]
    for file in found.files:
        path = found.folder / file.name
        known = groups is not None and path.resolve() == groups.resolve()
        if known or path.suffix.lower() not in TABLES or file.size > MOST_BYTES or not sample:
            continue
        words = _words(path)
        if 2 * sum(_named(image, words) for image in sample) < len(sample):
            continue
        if not any(word in words for name in classes for word in (name, name.lower())):
            raise QueeError(
                f"{shown(path)} names the images, and none of the folders that would be classes: {some(classes, 5)}. Labels "
                "in tables are not read: sort the images into folders by class, or take the table away"
            )
        report.notes.append(f"labels in {shown(file.name)} are not read: classes are the folders")


def _words(path: Path) -> set[str]:
    try:
        return set(_BETWEEN.split(path.read_bytes().decode("utf-8", "replace")))
    except OSError as error:
        raise QueeError(f"{shown(path)}: cannot be read ({error.strerror})") from None


def _named(image: PurePosixPath, words: set[str]) -> bool:
    return image.name in words or (len(image.stem) > 2 and image.stem in words)
