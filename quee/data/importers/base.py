"""What every importer has: its source and options, the plan it makes of them, and its entry in the registry."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quee.data import Dataset, dataset_called
from quee.data.importers.report import Report
from quee.data.walk import Walk, shown, walk
from quee.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One file of a dataset: `write(path)` makes it, whole or not at all."""

    name: str
    samples: int
    write: Callable[[Path], object]
    origin: Callable[[int], str]
    """What the user calls the image in a row: their file, archive and member, or Parquet file and row."""


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


@dataclass(frozen=True)
class Options:
    """What an importer may be told besides the source."""

    extra: bool = False
    """SVHN: add the extra set to the training set."""
    ground_truth: Path | None = None
    """ImageNet: labels of the validation images, instead of the devkit's."""
    evaluation: str | None = None
    """Folders and Parquet: the folder or split that is the evaluation set."""
    config: str | None = None
    """Parquet: the one of several configurations to take."""
    label: str | None = None
    """Parquet: the column with the labels."""
    skip_bad: bool = False
    """Go on without images that cannot be used."""


@dataclass
class Plan:
    """The files that an import writes."""

    shards: list[Shard] = field(default_factory=list)
    verify: bool = False
    """Whether images were taken over as they are, so must be shown to decode."""
    report: Report = field(default_factory=Report)


@dataclass(frozen=True)
class Source:
    """What is to be imported: the name of the data set, the file or folder given for it, and the options."""

    name: str
    given: Path | None
    options: Options

    @property
    def path(self) -> Path:
        """The file or folder; raises UsageError where none was given or it is not there."""
        if self.given is None:
            raise UsageError(f"dataset {self.name!r} needs a source, a file or folder")
        if not self.given.exists():
            raise UsageError(f"source {shown(self.given)} does not exist")
        return self.given

    @cached_property
    def walked(self) -> Walk | None:
        """What is in the folder; None where the source is a file."""
        return walk(self.path) if self.path.is_dir() else None

    @cached_property
    def dataset(self) -> Dataset:
        return dataset_called(self.name)


@dataclass(frozen=True)
class Importer:
    """A format of data sets: what it recognises and how it plans the files to be written."""

    recognise: Callable[[Source], Any]
    """What the source holds in this format, false where it is of another format; `plan` gets it."""
    plan: Callable[[Source, Any], Plan]
    """Raises QueeError or UsageError on what does not fit the format."""
    options: tuple[str, ...] = ()
    """Names of the options it takes beside `skip_bad`."""
    words: str = ""
    """The format in messages; where empty, the name of the data set."""

    def check(self, source: Source) -> None:
        """Raises UsageError for an option that says nothing to this importer, rather than ignore it."""
        for option, value in asdict(source.options).items():
            if value and option not in (*self.options, "skip_bad"):
                valid = " and ".join(f"--{name}" for name in self.options) or "none"
                raise UsageError(
                    f"--{option.replace('_', '-')} does not apply to {self.words or source.name}; options that do: {valid}"
                )
