"""The parts of every importer: source, options, the plan made from them, and the entry in the registry."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from quee.data import Dataset, dataset_called
from quee.data.importers.report import Report
from quee.data.walk import Walk, shown, walk
from quee.errors import UsageError
from quee.work.workers import Inline, Lanes


@dataclass(frozen=True)
class Shard:
    """One file of a dataset: `write(path)` makes it, whole or not at all."""

    name: str
    samples: int
    write: Callable[[Path], object]
    origin: Callable[[int], str]
    """The user's name of the image in a row: a file, an archive and member, or a Parquet file and row."""
    labels: np.ndarray = field(compare=False)
    """(samples,) int64; empty where the labels are drawn with the images."""
    classes: tuple[str, ...]
    """Names of the labels; empty where the source has none."""


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


@dataclass(frozen=True)
class Options:
    """Options of an import besides the source."""

    extra: bool = False
    """SVHN: add the extra set to the training set."""
    ground_truth: Path | None = None
    """ImageNet: a file with the labels of the validation images, instead of the devkit's."""
    evaluation: str | None = None
    """Folders and Parquet: name of the folder or split that is the evaluation set."""
    config: str | None = None
    """Parquet: the configuration to take if there are several."""
    label: str | None = None
    """Parquet: the column with the labels."""
    class_order: str | tuple[str, ...] | None = None
    """Folders and Parquet with names: the order of classes, as `quee.data.class_order.ordered` takes it."""
    group: str | None = None
    """Parquet: the column that says which samples belong together. Folders: a CSV table with columns image and group."""
    answers: str | None = None
    """Folders without labels: name of the weights whose answers become the labels."""
    labelled: str | None = None
    """With `answers`: a folder of class folders, whose images have labels."""
    skip_bad: bool = False
    """Leave out images that cannot be used instead of refusing them."""


@dataclass
class Plan:
    """The files that an import writes."""

    shards: list[Shard] = field(default_factory=list)
    verify: bool = False
    """Whether images are copied unchanged, so that they must be checked to decode."""
    report: Report = field(default_factory=Report)
    answers: Mapping[str, Any] | None = None
    """Facts of the network whose answers the labels are."""


def inline(seconds: float) -> Lanes:
    """Work of any length in this process."""
    return Inline()


@dataclass(frozen=True)
class Answering:
    """A float network that answers images without labels."""

    name: str
    """Of the weights."""
    classes: tuple[str, ...]
    """Names of its outputs."""
    facts: Mapping[str, Any]
    """What a data set records of the network."""
    answers: Callable[[Iterator[bytes], int], np.ndarray]
    """Classes (n,) int64 of n encoded images; 0 for what does not decode."""


@dataclass(frozen=True)
class Source:
    """An import: the name of the data set, the file or folder given for it, and the options."""

    name: str
    given: Path | None
    options: Options
    lanes: Callable[[float], Lanes] = inline
    """The executor for work that takes so many seconds of a core; it changes no byte of the data set."""
    answering: Answering | None = None
    """The network of option `answers`."""

    @property
    def path(self) -> Path:
        """The file or folder; raises UsageError where none was given or it does not exist."""
        if self.given is None:
            raise UsageError(f"dataset {self.name!r} needs a source: give a file or folder")
        if not self.given.exists():
            raise UsageError(f"source {shown(self.given)} does not exist")
        return self.given

    @cached_property
    def walked(self) -> Walk | None:
        """The walk of the folder; None where the source is a file."""
        return walk(self.path) if self.path.is_dir() else None

    @cached_property
    def dataset(self) -> Dataset:
        return dataset_called(self.name)


@dataclass(frozen=True)
class Importer:
    """A format of data sets: how it recognises a source, and how it plans the files to be written."""

    recognise: Callable[[Source], Any]
    """The contents of the source in this format, which `plan` gets; false where the source has another format."""
    plan: Callable[[Source, Any], Plan]
    """Plans the shards; raises QueeError or UsageError where the source does not fit the format."""
    options: tuple[str, ...] = ()
    """Names of the options that the format has besides `skip_bad`."""
    words: str = ""
    """Name of the format in messages; if empty, the name of the data set."""

    def check(self, source: Source) -> None:
        """Raises UsageError for an option that this importer does not have."""
        for option, value in asdict(source.options).items():
            if value and option not in (*self.options, "skip_bad"):
                valid = " and ".join(f"--{name.replace('_', '-')}" for name in self.options) or "none"
                raise UsageError(
                    f"--{option.replace('_', '-')} does not apply to {self.words or source.name}; options that do: {valid}"
                )
