"""Groups of samples, such as the images of one patient: from a column of Parquet files, or from a table beside folders."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.data.files import GROUP
from quee.data.importers.report import Report, counted
from quee.data.rowgroups import open_parquet, reading
from quee.data.walk import faults_text, shown, some
from quee.errors import DamagedError, QueeError, UsageError

MOST_BYTES = 512 << 20
"""Larger tables are refused."""
IMAGE = "image"
"""Column of a table with the files, by their paths below the source; the other one is `group`."""


@dataclass(frozen=True)
class Groups:
    """The groups of the images of several files or sets."""

    by_set: Mapping[str, np.ndarray]
    """(n,) int64 by path of a Parquet file, or by set of folders."""
    as_is: bool
    """Whether the files have these numbers in column `group` already."""

    def told(self, sets: Mapping[str, Sequence[str]], report: Report, source: str) -> None:
        """Say in the report how many groups there are, and how many of them have images in several `sets`."""
        own = [np.concatenate([self.by_set[name] for name in names]) for names in sets.values()]
        every = np.unique(np.concatenate(own))
        report.notes.append(f"groups: {counted(len(every), 'group')} in {source}; no split divides one")
        shared = np.intersect1d(own[0], own[1]) if len(own) == 2 else every[:0]
        if len(shared):
            report.notes.append(
                f"{counted(len(shared), 'group')} in the training set and in the evaluation set: only "
                "prepare.splits.evaluation_set 'pooled' keeps them together"
            )


def numbered_by_value(parts: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Numbers (n,) int64 of the values of each part: whole numbers stay, text is numbered in sorted order over all parts."""
    if all(isinstance(value, int) for part in parts for value in part):
        return [np.array(part, np.int64) for part in parts]
    texts = [[str(value).strip() for value in part] for part in parts]
    number = {text: index for index, text in enumerate(sorted({text for part in texts for text in part}))}
    return [np.array([number[text] for text in part], np.int64) for part in texts]


def column_groups(paths: Sequence[Path], wanted: str | None) -> Groups | None:
    """Groups by file name from a column of integers or text, `group` unless another is wanted; None where there is none.

    Raises UsageError or QueeError where a file lacks the column, or a row has no group.
    """
    column = wanted or GROUP
    having = [path for path in paths if column in open_parquet(path).schema_arrow.names]
    if not having and wanted is None:
        return None
    if lacking := [path for path in paths if path not in having]:
        names = open_parquet(lacking[0]).schema_arrow.names
        raise UsageError(
            f"{f'--group {column}' if wanted else f'column {column!r}'}: no such column in {shown(lacking[0])}; "
            f"it has {some(names)}"
        )
    kinds, parts = [open_parquet(path).schema_arrow.field(column).type for path in paths], []
    for path, kind in zip(paths, kinds, strict=True):
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise QueeError(f"{shown(path)}: column {column!r} is {kind}; groups are integers or text")
        with reading(path) as opened:
            values = opened.read(columns=[column], use_threads=False).column(column).to_pylist()
        if without := [row for row, value in enumerate(values) if value is None or not str(value).strip()]:
            raise QueeError(
                f"{shown(path)}: no group in column {column!r} in {counted(len(without), 'row')}, the first of them "
                f"{without[0]}; every image needs one, its own if it stands alone"
            )
        parts.append(values)
    as_is = column == GROUP and all(map(pa.types.is_integer, kinds))
    numbers = numbered_by_value(parts)
    return Groups({str(path): own for path, own in zip(paths, numbers, strict=True)}, as_is)


def table_groups(table: Path, images: Mapping[str, Sequence[str]]) -> Groups:
    """Groups by set of the images, given by their paths below the source, from a CSV table with columns image and group.

    Raises UsageError or QueeError naming a missing table or column, and images that it lacks or has twice.
    """
    if not table.is_file():
        raise UsageError(f"--group {shown(table)}: no such file; give a CSV table with columns {IMAGE} and {GROUP}")
    if (size := table.stat().st_size) > MOST_BYTES:
        raise QueeError(f"{shown(table)}: {size:,} bytes; at most {MOST_BYTES:,} are read")
    found: dict[str, str] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in (IMAGE, GROUP) if name not in (rows.fieldnames or ())]:
                raise QueeError(f"{shown(table)} has no column {missing[0]!r}; it has {some(rows.fieldnames or ())}")
            for row in rows:
                name, group = str(row[IMAGE] or "").removeprefix("./"), str(row[GROUP] or "").strip()
                if found.get(name, group) != group:
                    raise QueeError(f"{shown(table)}: {shown(name)} is in two groups, {found[name]} and {group}")
                found[name] = group
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedError(f"{shown(table)}: not a CSV table in UTF-8 ({error})") from None
    without = [shown(name) for own in images.values() for name in own if not found.get(name)]
    if without:
        raise QueeError(faults_text(without, f"images have no group in {shown(table)}"))
    texts = [[found[name] for name in own] for own in images.values()]
    whole = all(text.lstrip("-").isdecimal() and text.isascii() for own in texts for text in own)
    numbers = numbered_by_value([[int(text) for text in own] for own in texts] if whole else texts)
    return Groups(dict(zip(images, numbers, strict=True)), as_is=False)
