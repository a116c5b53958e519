"""Class labels from callers, as indices or names, and the classes they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quee.errors import UsageError, one_line

SHOWN = 5
"""Number of values listed in a message."""


@dataclass(frozen=True)
class Labels:
    """One label per image."""

    values: np.ndarray
    """(n,) int64 class indices, or names as objects."""

    @property
    def named(self) -> bool:
        return self.values.dtype == object


def column(labels: Any) -> Labels:
    """Whole numbers or names (n,); raises UsageError with the reason for anything else."""
    if isinstance(labels, np.ma.MaskedArray) and np.ma.is_masked(labels):
        raise UsageError("labels are a masked array: what is masked has no label; leave these images out")
    if isinstance(labels, set | frozenset | Mapping) or (hasattr(labels, "__next__") and hasattr(labels, "__iter__")):
        raise UsageError(f"labels are a {type(labels).__name__}, no sequence; give an array or a list, one per image")
    try:
        array = np.asarray(labels)
    except (ValueError, TypeError) as error:
        raise UsageError(f"labels are not one per image ({one_line(error)})") from None
    kind, found = array.dtype.kind, f"labels have shape {array.shape} and dtype {array.dtype}"
    valid = "valid: (n,) class indices from 0, or (n,) class names"
    if array.ndim == 2 and array.shape[1] == 1:
        raise UsageError(f"{found}; {valid}; give labels.ravel()")
    if array.ndim == 2 and kind in "biuf" and (array.sum(axis=1) == 1).all():
        raise UsageError(f"{found}, one-hot by the look of them; {valid}; give labels.argmax(axis=1)")
    if array.ndim != 1:
        raise UsageError(f"{found}; {valid}")
    if kind in "iu":
        return Labels(array.astype(np.int64))
    if kind == "S" or (kind == "O" and array.size and all(isinstance(value, bytes) for value in array.tolist())):
        raise UsageError(f"{found}; {valid}; bytes are no names: give np.char.decode(labels)")
    if kind == "T":  # numpy's strings of any length
        array, kind = array.astype(object), "O"
    values = list(labels) if kind == "U" and not isinstance(labels, np.ndarray) else array.tolist()
    if kind in "UO" and (strange := [value for value in values if not isinstance(value, str)]):
        if len(strange) == len(values) and all(type(value) is int for value in strange):
            return Labels(array.astype(np.int64))
        raise UsageError(f"labels hold {strange[0]!r}, of type {type(strange[0]).__name__}; {valid}")
    if kind not in "UO":
        whole = kind == "f" and bool((array == np.rint(array)).all())
        advice = "give labels.astype(int)" if whole or kind == "b" else "their classes are not known"
        raise UsageError(f"{found}; {valid}; {advice}")
    if "" in values:
        raise UsageError(f"the label of image {values.index('')} is empty; {valid}")
    return Labels(array.astype(object))


def joined(parts: Sequence[Labels]) -> Labels:
    """The labels of several batches; raises UsageError where some are names and others indices."""
    if len({part.named for part in parts}) > 1:
        raise UsageError("labels of some batches are names and of others numbers; give one of both")
    return Labels(np.concatenate([part.values for part in parts]))


def named(classes: Sequence[str] | None, outputs: int) -> list[str]:
    """Names of the backbone's outputs; their numbers where none are given. Raises UsageError for names that do not fit."""
    return _class_names(classes, outputs) or [str(index) for index in range(outputs)]


def class_indices(labels: Labels | None, classes: Sequence[str] | None, outputs: int) -> tuple[np.ndarray, list[str]]:
    """Indices (n,) into the backbone's outputs, and the names of these; no indices where there are no labels.

    Without `classes`, names are assigned to the outputs in sorted order. Raises UsageError for labels that are not a
    class of the backbone, and where the order would be a guess.
    """
    names = _class_names(classes, outputs)
    if labels is None:
        return np.zeros(0, np.int64), named(classes, outputs)
    if not labels.named:
        bad = np.flatnonzero((labels.values < 0) | (labels.values >= outputs))
        if len(bad):
            first, more = int(bad[0]), f" ({len(bad)} such)" if len(bad) > 1 else ""
            unlabelled = "; leave out what is not labelled" if labels.values[first] < 0 else ""
            raise UsageError(
                f"label {labels.values[first]} of image {first}{more}: valid 0–{outputs - 1}, for the backbone has "
                f"{outputs} classes{unlabelled}"
            )
        return labels.values, named(classes, outputs)
    found = sorted(set(labels.values.tolist()))
    if names is None:
        names = _in_order(found, outputs)
    if strange := [name for name in found if name not in names]:
        raise UsageError(f"label {strange[0]!r} is none of the classes; valid: {_some(names)}")
    index = {name: position for position, name in enumerate(names)}
    return np.array([index[name] for name in labels.values.tolist()], np.int64), names


def _class_names(classes: Sequence[str] | None, outputs: int) -> list[str] | None:
    if classes is None:
        return None
    ordered = isinstance(classes, np.ndarray | Sequence) and not isinstance(classes, str)
    if not ordered or not all(isinstance(name, str) and name for name in classes):
        raise UsageError(
            f"classes are a {type(classes).__name__}: give a list of names, one for each output of the backbone in its order"
        )
    names = [str(name) for name in classes]
    if len(names) != outputs:
        raise UsageError(f"classes: {len(names)} names; the backbone has {outputs} outputs")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"classes: {twice!r} is named twice")
    return names


def _in_order(found: list[str], outputs: int) -> list[str]:
    """Names in sorted order; raises UsageError where classes are missing or can be sorted in two ways."""
    how = f"give classes=[…], the {outputs} names in the order of the backbone's outputs"
    if len(found) != outputs:
        raise UsageError(f"labels have {len(found)} names ({_some(found)}), the backbone {outputs} outputs; {how}")
    if all(name.isdecimal() for name in found) and sorted(found, key=int) != found:
        raise UsageError(f"labels are numbers as text, which sort in two ways ({_some(found)}); give numbers, or {how}")
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return f"{shown}, …" if len(names) > SHOWN else shown
