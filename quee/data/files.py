"""The Parquet files of a dataset: their names, labels, classes and encoded images. This module needs no torch."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quee.data import Dataset, dataset_called
from quee.data.columns import IMAGES
from quee.data.decode import open_image
from quee.data.rowgroups import EncodedImages, open_parquet, reading
from quee.errors import IntegrityError, QueeError
from quee.measure import ACCURACY, AGREEMENT, LABELLED, Measure
from quee.work.io import content_digest, verify_digests

LABELS = ("label", "labels", "fine_label")
GROUP = "group"
"""Column with the group of each sample."""
ANSWERS = "quee.answers"
"""Metadata of files whose labels are a float network's answers: the facts of that network."""


class DatasetFiles:
    """All samples of a dataset: those of the training files, of the test files, of the labelled files. Sample id: row number.

    Labelled files are there only where the labels of the others are a float network's answers.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self.folder, self.dataset = folder, dataset
        train, test, labelled = dataset_files(folder, dataset)
        self.files = [*train, *test, *labelled]
        self._columns = [_columns(path, dataset) for path in self.files]
        names = {image for image, _ in self._columns}
        if len(names) > 1:
            raise QueeError(f"{folder}: images are in columns of different names: {', '.join(sorted(names))}")
        self.encoded = EncodedImages(self.files, names.pop())
        counts = [open_parquet(path).metadata.num_rows for path in train]
        self.train_samples = sum(counts)
        """Number of samples in the official training set."""
        self.evaluation_samples = sum(open_parquet(path).metadata.num_rows for path in test)
        """Number of samples in the official evaluation set."""
        self.labelled_samples = len(self.encoded) - self.train_samples - self.evaluation_samples
        """Number of samples that people labelled beside others whose labels are a network's answers."""
        self.answers = _answers([*train, *test], labelled, folder)
        """Facts of the network whose answers the labels are; None where people labelled the images."""
        self.classes = self._classes() or tuple(str(label) for label in range(int(self.labels.max(initial=-1)) + 1))
        self._check_labels()

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def measure(self) -> Measure:
        """What answers are compared with in the splits other than `labelled`."""
        return ACCURACY if self.answers is None else AGREEMENT

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        parts = []
        for path, (_, label) in zip(self.files, self._columns, strict=True):
            with reading(path) as opened:
                column = opened.read(columns=[label], use_threads=False).column(label)
                parts.append(column.cast(pa.int64()).fill_null(-1).to_numpy())
        return np.concatenate(parts)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """(N,) int64, the samples that belong together, from column `group`; None where the files do not have it.

        Raises QueeError where only some files have it, or where it holds no whole numbers or is empty in a row.
        """
        having = [path for path in self.files if GROUP in open_parquet(path).schema_arrow.names]
        if not having:
            return None
        if lacking := [path for path in self.files if path not in having]:
            raise QueeError(
                f"{lacking[0]} has no column {GROUP!r}, but {having[0].name} has: which samples belong together?"
            )
        parts = []
        for path in self.files:
            with reading(path) as opened:
                column = opened.read(columns=[GROUP], use_threads=False).column(GROUP)
            if not pa.types.is_integer(column.type):
                how = f"`quee data add {self.folder.name} SOURCE --replace` numbers groups"
                raise QueeError(f"{path}: column {GROUP!r} is {column.type}; expected integers; {how}")
            if column.null_count:
                row = column.is_null().to_numpy().argmax()
                raise QueeError(f"{path}: no group in row {row}; every sample needs one, its own if it stands alone")
            parts.append(column.cast(pa.int64()).to_numpy())
        return np.concatenate(parts)

    @cached_property
    def paths(self) -> np.ndarray:
        """(N,) text: the original name of each image, as the files give it; empty where they give none."""
        parts = []
        for path, (image, _) in zip(self.files, self._columns, strict=True):
            with reading(path) as opened:
                column = opened.read(columns=[f"{image}.path"], use_threads=False).column(image).combine_chunks()
            parts.append(column.field("path").fill_null("").to_numpy(zero_copy_only=False))
        return np.concatenate(parts).astype(object)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {path.name: content_digest(path) for path in self.files}

    def name(self, sample: int) -> str:
        """The name of a sample in error messages."""
        _, path = self.encoded[int(sample)]
        return f"{self.folder}: sample {sample}" + (f" ({path})" if path else "")

    def first_size(self) -> tuple[int, int]:
        """Height, width of the first image, from its header."""
        try:
            width, height = open_image(self.encoded[0][0], "").size
        except QueeError as error:
            raise type(error)(self.name(0) + str(error)) from None
        return height, width

    def _classes(self) -> tuple[str, ...]:
        """Class names of the registry, or the names in every file; raises QueeError where a file's names differ."""
        found = [class_names(path, label) for path, (_, label) in zip(self.files, self._columns, strict=True)]
        expected, known = self.dataset.classes or found[0], bool(self.dataset.classes)
        for path, names in zip(self.files, found, strict=True):
            same = names == expected or (known and _spelled_otherwise(names, expected))
            if not same and not (known and not names):
                other = f"{self.files[0].name}'s" if not known else "the dataset's"
                how = f"`quee data add {self.folder.name} SOURCE --replace` translates them by name"
                raise QueeError(f"{path}: class names in it are not {other}, so its labels mean other classes; {how}")
        return expected

    def _check_labels(self) -> None:
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(bad):
            found = f"label {self.labels[bad[0]]} of sample {bad[0]}"
            raise QueeError(f"{self.folder}: {found} is out of range; valid: 0 to {len(self.classes) - 1}")


def _spelled_otherwise(names: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether the names mean the same classes in the same order; `a` and `A` are two classes where both are expected."""
    keys = [*map(same_name, expected)]
    return len(set(keys)) == len(keys) and [*map(same_name, names)] == keys


def checked_dataset(folder: Path, name: str, digests: Mapping[str, str] | None) -> Dataset:
    """The dataset called `name`, after checking that `folder` holds exactly the files recorded, unaltered.

    A large file is read for this check once per machine until the file changes.
    """
    if digests is not None:
        verify_digests(folder, dict(digests), content_digest)
    dataset = dataset_called(name)
    if digests is not None:
        present = {path.name for files in dataset_files(folder, dataset) for path in files}
        if extra := sorted(present - set(digests)):
            raise IntegrityError(f"{folder / extra[0]} is not among the recorded files")
    return dataset


def _answers(files: Sequence[Path], labelled: Sequence[Path], folder: Path) -> dict[str, Any] | None:
    """The network that answered the images of all files; raises QueeError where files differ in it."""
    said = {(open_parquet(path).metadata.metadata or {}).get(ANSWERS.encode()) for path in files}
    if len(said) > 1 or (labelled and None in said):
        raise QueeError(
            f"{folder}: labels of some files are a network's answers and of others are not; `quee data add {folder.name} "
            "SOURCE --replace` makes them anew"
        )
    text = said.pop()
    return None if text is None else dict(json.loads(text))


def dataset_files(folder: Path, dataset: Dataset) -> tuple[list[Path], list[Path], list[Path]]:
    """Parquet files of the official training and evaluation set, and of images labelled beside others, sorted.

    Raises IntegrityError when there are none.
    """
    train = sorted(folder.glob("train-*.parquet"))
    if not train:
        how = f"; {dataset.source}" if dataset.source else ""
        raise IntegrityError(f"missing file: {folder}/train-*.parquet (`quee data add {folder.name} SOURCE`{how})")
    labelled = sorted(folder.glob(f"{LABELLED}-*.parquet"))
    for beginning in dataset.evaluation:
        if test := sorted(folder.glob(f"{beginning}-*.parquet")):
            return train, test, labelled
    return train, [], labelled


def _columns(path: Path, dataset: Dataset) -> tuple[str, str]:
    """Names of a file's image and label columns, checked for type."""
    schema = open_parquet(path).schema_arrow
    image, label = image_column(path, dataset), _column(path, schema, (dataset.label, *LABELS))
    if not pa.types.is_integer(schema.field(label).type):
        raise QueeError(f"{path}: column {label!r} is {schema.field(label).type}; expected integers")
    return image, label


def image_column(path: Path, dataset: Dataset) -> str:
    """Name of a file's image column, checked for type."""
    schema = open_parquet(path).schema_arrow
    name = _column(path, schema, (dataset.image, *IMAGES))
    kind = schema.field(name).type
    if not (pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}):
        raise QueeError(f"{path}: column {name!r} is {kind}; expected struct<bytes: binary, path: string>")
    return name


def _column(path: Path, schema: pa.Schema, names: Sequence[str]) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise QueeError(f"{path} has no column {names[0]!r}; it has {', '.join(schema.names)}")


def class_names(path: Path, label: str) -> tuple[str, ...]:
    """Class names of a label column in the file's metadata, as the hub writes them; empty when there are none.

    They are a list, or names by number such as `{"0": "cat"}`. Raises QueeError for other forms, whose labels would be guesses.
    """
    metadata = open_parquet(path).metadata.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    if names is None:
        return ()
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if isinstance(names, dict) and set(names) == set(numbers):
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or any(isinstance(name, list | dict) or name is None for name in names):
        raise QueeError(f"{path}: names of column {label!r} are neither a list nor numbered from 0: {str(names)[:80]}")
    return tuple(map(str, names))


def same_name(name: str) -> str:
    """A registered dataset's class name without differences of spelling, such as `T - shirt / top`."""
    return "".join(filter(str.isalnum, name.casefold()))
