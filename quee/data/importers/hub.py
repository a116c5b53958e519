"""Parquet files with the schema of the hub's image datasets, copied unchanged if their labels mean the same."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from quee.data import Dataset
from quee.data.columns import IMAGES
from quee.data.files import GROUP, LABELS, image_column
from quee.data.importers.base import Importer, Plan, Shard, Source, shard_name
from quee.data.importers.groups import Groups, column_groups
from quee.data.importers.labels import MOST_CLASSES, Labels, common_names, label_column, read_labels, translated
from quee.data.importers.report import Report, counted
from quee.data.importers.sets import preferred_roles, role
from quee.data.importers.splits import by_split, check_whole, choose_config, choose_splits, place
from quee.data.rowgroups import EncodedImages, open_parquet
from quee.data.walk import SKIP_HINT, Skipped, each, faults_text, shown, some
from quee.data.writer import Sample, write_images
from quee.errors import QueeError
from quee.work.io import atomic_path

SUFFIX = ".parquet"
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Parquet:
    """The Parquet files with images of a source."""

    source: Path
    """The source folder."""
    names: list[str]
    """Paths below that folder, with `/`."""
    skipped: Skipped


def find_parquet(source: Source) -> Parquet | None:
    """Parquet files of a source that have images; None when there are none.

    Files without images count as not read. Raises QueeError for a file that is not readable.
    """
    path = source.path
    if source.walked is None:
        return Parquet(path.parent, [path.name], Skipped()) if path.suffix.lower() == SUFFIX else None
    parquet = source.walked.of((SUFFIX,))
    holds = each(_has_images, [path / file.name for file in parquet.files], "Parquet files are not readable")
    names = [file.name for file, images in zip(parquet.files, holds, strict=True) if images]
    if others := len(parquet.files) - len(names):
        parquet.skipped.other[SUFFIX] += others
    return Parquet(path, names, parquet.skipped) if names else None


def _has_images(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise QueeError(
                f"{shown(path)} stands for a file of Git LFS; `git lfs pull` in its folder fetches the file"
            )
    schema = open_parquet(path).schema_arrow
    return any(
        name in IMAGES or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        for name, kind in zip(schema.names, schema.types, strict=True)
    )


def plan(of: Source, found: Parquet) -> Plan:
    """Shards of the training split and the evaluation split, with labels that mean the same in all files.

    Raises QueeError or UsageError, with what to do, where a label's meaning, a configuration or a split would be a guess.
    """
    plan, source, dataset, options = Plan(verify=True), shown(found.source), of.dataset, of.options
    plan.report.skipped.add(found.skipped)
    parts = each(partial(place, found.source), found.names, "Parquet files are of no known split")
    splits = by_split(choose_config(parts, options.config, plan.report, source))
    first = next((own for split, own in splits.items() if role(split) == "train"), next(iter(splits.values())))[0].path
    column = label_column(first, dataset, options.label, plan.report)
    labels: dict[str, list[Labels]] = {}
    unusable: dict[str, str] = {}
    for split, own in splits.items():
        try:
            labels[split] = [read_labels(part.path, column) for part in own]
        except QueeError as error:
            unusable[split] = str(error)
            continue
        if all((one.values < 0).all() for one in labels[split]):
            unusable[split] = "its images have no labels"
    preferred = preferred_roles(dataset.evaluation)
    train, evaluation = choose_splits(splits, unusable, options.evaluation, preferred, source)
    for split, own in splits.items():
        if split not in (train, evaluation):
            rows = sum(open_parquet(part.path).metadata.num_rows for part in own)
            why = unusable.get(split, f"--evaluation {shown(split)} takes it")
            plan.report.leave(f"split {shown(split)}", rows, f"{counted(rows)}; {why}")
    chosen = {"train": train} if evaluation is None else {"train": train, _role(evaluation): evaluation}
    for split in chosen.values():
        check_whole(split, splits[split])
    named = {target: labels[split] for target, split in chosen.items()}
    every = [one for own in named.values() for one in own]
    names = common_names(named["train"], every, dataset.classes, options.class_order, plan.report)
    if not names:
        _note_nameless(named, plan.report)
    groups = column_groups([one.path for one in every], options.group)
    if groups is not None:
        files = {target: [str(one.path) for one in own] for target, own in named.items()}
        groups.told(files, plan.report, f"column {options.group or GROUP}")
    plan.shards += _shards(named, names, dataset, column, groups, options.skip_bad, plan.report)
    if evaluation is not None:
        plan.report.notes.append(f"evaluation set: split {shown(evaluation)}")
    return plan


IMPORTER = Importer(find_parquet, plan, ("evaluation", "config", "label", "class_order", "group"), "Parquet files")


def _role(split: str) -> str:
    """Prefix of the files of an evaluation split: `validation` or `test`."""
    return "validation" if role(split) == "validation" else "test"


def _note_nameless(labels: Mapping[str, Sequence[Labels]], report: Report) -> None:
    largest = max((int(one.values.max(initial=-1)), one.path) for own in labels.values() for one in own)
    if largest[0] >= MOST_CLASSES:
        raise QueeError(
            f"{shown(largest[1])}: label {largest[0]}, and no class names; at most {MOST_CLASSES:,} are taken"
        )
    report.notes.append(f"no class names in the files: classes are called 0 to {largest[0]}")


@dataclass(frozen=True)
class _File:
    """A file of a chosen split, with its labels as the data set numbers them."""

    target: str
    """Name of the file in the data set."""
    found: Labels
    labels: np.ndarray
    """(n,) int64, -1 for a row without a label."""
    rows: "_Rows"
    groups: np.ndarray | None = None
    """(n,) int64; None where the data set has no groups."""

    def faults(self, names: tuple[str, ...]) -> Iterator[str]:
        """One line per row without a label, with the reason."""
        for row in np.flatnonzero(self.labels < 0):
            label, valid = int(self.found.values[row]), len(self.found.names or names) - 1
            why = "no label" if label < 0 else f"label {label} is out of range; valid: 0 to {valid}"
            yield f"{self.rows.origin(int(row))}: {why}"

    def stays(self, column: str, names: tuple[str, ...], dataset: Dataset) -> bool:
        """Whether the file can be copied unchanged: its labels and class names are those of the data set."""
        schema = open_parquet(self.found.path).schema_arrow
        usual = next((name for name in (dataset.label, *LABELS) if name in schema.names), None)
        same = not self.found.text and np.array_equal(self.labels, self.found.values) and (self.labels >= 0).all()
        return bool(same and column == usual and (self.found.names == names or dataset.classes))

    def shard(self, as_is: bool, names: tuple[str, ...]) -> Shard:
        path, kept = self.found.path, np.flatnonzero(self.labels >= 0)
        groups = None if self.groups is None else self.groups[kept]
        written = partial(_write, path, self.rows.image, kept, self.labels[kept], names, groups)
        write = partial(_copy, path) if as_is else written
        labels = self.labels[kept]
        return Shard(self.target, len(kept), write, lambda row: self.rows.origin(int(kept[row])), labels, names)


def _shards(
    named: Mapping[str, Sequence[Labels]],
    names: tuple[str, ...],
    dataset: Dataset,
    column: str,
    groups: Groups | None,
    skip_bad: bool,
    report: Report,
) -> list[Shard]:
    """Copies of the files; all are written anew if labels of one are translated or rows are left out."""

    def file(place: tuple[str, Labels]) -> _File:
        target, one = place
        rows = _Rows(one.path, image_column(one.path, dataset))
        own = None if groups is None else groups.by_set[str(one.path)]
        return _File(target, one, translated(one, names, bool(dataset.classes)), rows, own)

    places = [(shard_name(target, i, len(own)), one) for target, own in named.items() for i, one in enumerate(own)]
    files = each(file, places, "Parquet files do not fit the others")
    faults = [fault for one in files for fault in one.faults(names)]
    if faults and not skip_bad:
        raise QueeError(faults_text(faults, "images without a valid label", SKIP_HINT))
    report.bad += faults
    each(_check_ids, [one.found.path for one in files], "Parquet files number samples twice")
    good = [(one, one.labels >= 0) for one in files]
    if moved := [f for f, rows in good if f.found.text or not np.array_equal(f.labels[rows], f.found.values[rows])]:
        report.notes.append(f"labels translated by name: {some((shown(one.found.path.name) for one in moved), 3)}")
    one_column = len({one.rows.image for one in files}) == 1
    grouped = groups is None or groups.as_is
    as_is = grouped and one_column and all(one.stays(column, names, dataset) for one in files)
    return [one.shard(as_is, names) for one in files]


class _Rows:
    """Names of the rows of a file in messages."""

    def __init__(self, path: Path, image: str) -> None:
        self.path, self.image = path, image

    @cached_property
    def names(self) -> pa.Array:
        """Paths that the file gives for its images, read on first use."""
        with open_parquet(self.path) as opened:
            images = opened.read(columns=[f"{self.image}.path"], use_threads=False).column(self.image)
        return images.combine_chunks().field("path")

    def origin(self, row: int) -> str:
        name = self.names[row].as_py()
        return f"{shown(self.path)}, row {row}" + (f" ({name})" if name else "")


def _check_ids(path: Path) -> None:
    """Raises QueeError where a column with ids of samples holds an id twice."""
    with open_parquet(path) as opened:
        for column in {"sample_id", "id"} & set(opened.schema_arrow.names):
            ids = opened.read(columns=[column]).column(column)
            if len(ids.unique()) < len(ids):
                raise QueeError(f"{shown(path)}: a value in column {column!r} is there twice")


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as aside:
        shutil.copyfile(source, aside)


def _write(
    source: Path,
    image: str,
    rows: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    groups: np.ndarray | None,
    path: Path,
) -> None:
    encoded = EncodedImages([source], image)

    def samples() -> Iterator[Sample]:
        for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
            data, name = encoded[int(row)]
            yield Sample(data, name, int(label), None if groups is None else int(groups[index]))

    write_images(path, samples(), names, grouped=groups is not None)
