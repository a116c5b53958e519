"""Labels of Parquet files by name: the class names of each file, and one order for all files."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.data import Dataset
from quee.data.class_order import note_on, ordered
from quee.data.files import LABELS, class_names, same_name
from quee.data.importers.report import Report
from quee.data.rowgroups import open_parquet, reading
from quee.data.walk import shown, some
from quee.errors import QueeError, UsageError

MOST_CLASSES = 1_000_000
"""Integers without class names must be below this to be labels."""


def label_column(path: Path, dataset: Dataset, wanted: str | None, report: Report) -> str:
    """The label column, which is the same in all files; a choice among several goes to the report.

    Raises UsageError or QueeError, with the file's columns, where no column has a usual name or is described as labels.
    """
    schema = open_parquet(path).schema_arrow
    usual = [name for name in dict.fromkeys((dataset.label, *LABELS)) if name in schema.names]
    named = [name for name in described(path) if name in schema.names]
    if wanted is not None and wanted not in schema.names:
        raise UsageError(f"--label {wanted!r}: no such column in {shown(path)}; it has {some(schema.names)}")
    if wanted is None and not usual and len(named) != 1:
        valid = f"valid for --label: {some(named or schema.names)}"
        raise QueeError(f"{shown(path)} has no column {dataset.label!r}; which one has the labels? {valid}")
    column = wanted or (usual or named)[0]
    for other in dict.fromkeys((*usual, *named)):
        if other != column:
            report.leave(f"column {other}", 0, f"--label {other} takes its labels")
    if column not in ("label", dataset.label):
        report.notes.append(f"labels: column {column}")
    return column


def described(path: Path) -> list[str]:
    """Columns with class labels according to a file's metadata, in the hub's form."""
    try:
        features = json.loads((open_parquet(path).metadata.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, its in features.items() if isinstance(its, dict) and its.get("_type") == "ClassLabel"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


@dataclass(frozen=True)
class Labels:
    """The labels of one file."""

    path: Path
    values: np.ndarray
    """(n,) int64: positions in `names`, or the file's integers where it has no names; below 0 for rows without a label."""
    names: tuple[str, ...]
    text: bool
    """Whether the column holds the names themselves."""


def read_labels(path: Path, column: str) -> Labels:
    """Labels of a column of integers or text; blank text is no label. Raises QueeError for other types."""
    with reading(path) as opened:
        if column not in opened.schema_arrow.names:
            raise QueeError(f"{shown(path)} has no column {column!r}; it has {some(opened.schema_arrow.names)}")
        found = opened.read(columns=[column], use_threads=False).column(column)
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    if pa.types.is_string(found.type) or pa.types.is_large_string(found.type):
        present = {name for name in found.drop_null().to_pylist() if name.strip()}
        names = sorted(present, key=_order(list(present)))
        position = {name: index for index, name in enumerate(names)}
        values = [position.get(name, -1) for name in found.to_pylist()]
        return Labels(path, np.array(values, np.int64), tuple(names), True)
    if not pa.types.is_integer(found.type):
        raise QueeError(f"{shown(path)}: column {column!r} is {found.type}; expected integers or text")
    values = found.cast(pa.int64(), safe=False).fill_null(-1).to_numpy()
    return Labels(path, values, class_names(path, column), False)


def _order(names: Sequence[str]) -> Callable[[str], Any]:
    """Sort key of class names: numbers where all are numbers, else text."""
    return int if all(name.isascii() and name.isdigit() for name in names) else str


def common_names(
    training: Sequence[Labels],
    others: Sequence[Labels],
    registered: tuple[str, ...],
    order: str | tuple[str, ...] | None,
    report: Report,
) -> tuple[str, ...]:
    """Class names in the data set's order: as asked for by `order`, the registry's, the first training file's, or the
    sorted text labels of all training files. Empty where no file has names.

    Names that are all numbers are sorted by their value, and the report says how others are sorted where it matters.
    Raises QueeError where only some files have names, because the integers of the others may mean anything, UsageError for
    an order that the data set cannot have.
    """
    if registered:
        if order is not None:
            raise UsageError(
                "--class-order does not apply to a registered data set: its classes have a published order"
            )
        return registered
    files = [*training, *others]
    named = [labels for labels in files if labels.names]
    if named and (nameless := [labels for labels in files if not labels.names and not labels.text]):
        there = f"{shown(named[0].path.name)} has: {some(named[0].names)}"
        raise QueeError(
            f"{shown(nameless[0].path)}: no class names in it, but {there}; which label is which is not known"
        )
    listed = [labels.names for labels in training if not labels.text]
    names = {name for labels in training for name in labels.names}
    if order is not None:
        if not names:
            raise UsageError("--class-order: the files have no class names, only numbers, which are the order")
        return ordered(listed[0] if listed else sorted(names), order)
    if listed:
        return listed[0]
    if note := note_on(sorted(names), "text" if _order(list(names)) is str else "natural"):
        report.notes.append(note)
    return tuple(sorted(names, key=_order(list(names))))


def translated(labels: Labels, names: tuple[str, ...], registered: bool) -> np.ndarray:
    """A file's labels (n,) as positions in `names`, by name; -1 for rows without a label or with one out of range.

    Names of a registered dataset may have another spelling. Raises QueeError for names that are not among `names`.
    """
    values = np.where(labels.values < 0, -1, labels.values)
    valid = labels.names or names
    if valid:
        values = np.where(values >= len(valid), -1, values)
    if not labels.names or labels.names == names:
        return values
    key = same_name if registered else _composed
    ours, theirs = [key(name) for name in names], [key(name) for name in labels.names]
    if ours == theirs:
        return values
    if unknown := [name for name, its in zip(labels.names, theirs, strict=True) if its not in ours]:
        known = "the dataset" if registered else "the training set"
        kind = "class" if len(unknown) == 1 else "classes"
        raise QueeError(f"{shown(labels.path)}: {some(unknown)}: no {kind} of {known}; its classes: {some(names)}")
    if len(set(ours)) < len(ours) or len(set(theirs)) < len(theirs):
        raise QueeError(
            f"{shown(labels.path)}: class names in another order, and some of them twice; give each its own"
        )
    positions = np.array([*(ours.index(its) for its in theirs), -1], np.int64)  # the last for rows without a label
    return positions[values]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
