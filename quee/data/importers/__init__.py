"""Importers: files of the public formats to hub-schema Parquet. Nothing in a file is executed or extracted by its path.

An importer turns a source into a plan, a list of shards; `import_dataset` writes those not written yet and puts the
whole in place at once.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from quee.data import dataset_called
from quee.data.importers.report import Report
from quee.data.importers.sets import preferred_roles
from quee.data.walk import shown, some, walk
from quee.errors import IntegrityError, QueeError, UsageError
from quee.work.keys import code, key_of, versions
from quee.work.progress import progress

PARTIAL = Path(".quee") / "partial" / "import"
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
"""Endings of archives, in lower case."""
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Shard:
    """One file of a dataset: `write(path)` makes it, whole or not at all."""

    name: str
    samples: int
    write: Callable[[Path], object]
    origin: Callable[[int], str]
    """What the user calls the image in a row: their file, archive and member, or Parquet file and row."""


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
    shards: list[Shard] = field(default_factory=list)
    verify: bool = False
    """Whether images were taken over as they are, so must be shown to decode."""
    report: Report = field(default_factory=Report)


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def plan_import(name: str, source: Path | None, options: Options) -> Plan:
    """The shards of dataset `name` out of `source`; raises QueeError on what does not fit the format."""
    from quee.data.importers import cifar, digits, hub, idx, imagenet, located, svhn

    if name == "digits":
        _refuse_others(options, "digits")
        if source is not None:
            raise UsageError(f"the digits come with scikit-learn; leave out {shown(source)}")
        return digits.plan()
    if source is None:
        raise UsageError(f"dataset {name!r} needs a source, a file or folder")
    if not source.exists():
        raise UsageError(f"source {shown(source)} does not exist")
    dataset = dataset_called(name)
    found = walk(source) if source.is_dir() else None
    if parquet := hub.find_parquet(source, found):
        _refuse_others(options, "Parquet files", "evaluation", "config", "label")
        return hub.plan(parquet, dataset, options)
    if name in ("mnist", "fashion_mnist"):
        _refuse_others(options, name)
        return idx.plan(name, source)
    if name in ("cifar10", "cifar100"):
        _refuse_others(options, name)
        return cifar.plan(name, source)
    if name == "svhn":
        _refuse_others(options, name, "extra")
        return svhn.plan(source, options)
    if name == "imagenet" and imagenet.has_tars(source):
        _refuse_others(options, "ImageNet's archives", "ground_truth")
        return imagenet.plan(source, options)
    if found is not None:
        _refuse_others(options, "class folders", "evaluation")
        return located.plan_folders(found, options, preferred_roles(dataset.evaluation))
    packed = "; unpack it first" if source.suffix.lower() in PACKED else ""
    raise UsageError(f"{shown(source)} is neither a folder of class folders nor of Parquet files with images{packed}")


def _refuse_others(options: Options, of: str, *taken: str) -> None:
    """Refuse options that say nothing to an importer, rather than ignore them."""
    for option, value in asdict(options).items():
        if value and option not in (*taken, "skip_bad"):
            valid = " and ".join(f"--{name}" for name in taken) or "none"
            raise UsageError(f"--{option.replace('_', '-')} does not apply to {of}; options that do: {valid}")


def import_dataset(
    name: str, source: Path | None, target: Path, options: Options = Options(), replace: bool = False
) -> Report:
    """Import into the folder `target`, whole or not at all; a re-run goes on after the last shard written.

    Returns what was left out, chosen, merged or is there twice. Raises QueeError naming what is wrong with the source,
    UsageError for a bad name or a target that is there.
    """
    try:
        return _import(name, source, target, options, replace)
    except IntegrityError as error:  # what is damaged is the source, nothing of the project
        raise QueeError(str(error)) from None


def _import(name: str, source: Path | None, target: Path, options: Options, replace: bool) -> Report:
    from quee.data.importers.inspection import inspect_images, without_bad

    if not NAME.fullmatch(name) or name == "weights":
        raise UsageError(f"dataset name {name!r}; valid: lower-case letters, digits and _, and not 'weights'")
    if target.exists() and any(target.iterdir()) and not replace:
        raise UsageError(f"{target} is there already; give --replace to import it anew")
    plan = plan_import(name, source, options)
    folder = PARTIAL / f"{name}-{_key(source, options, plan)}"
    folder.mkdir(parents=True, exist_ok=True)
    with progress(f"importing {name}", sum(shard.samples for shard in plan.shards)) as bar:
        for shard in plan.shards:
            path = folder / shard.name
            if not path.is_file():
                shard.write(path)
            bar.advance(shard.samples)
    faults = inspect_images(folder, dataset_called(name), plan, options.skip_bad)
    _put_in_place(without_bad(folder, faults) if faults else folder, target)
    for left in PARTIAL.glob(f"{name}-*"):
        shutil.rmtree(left)
    if near := _alike(plan.report.classes):
        plan.report.notes.append(f"classes that differ in case or spaces alone: {some(map(repr, near))}")
    if not plan.report.evaluation:
        plan.report.notes = [note for note in plan.report.notes if not note.startswith("evaluation set: ")]
        plan.report.notes.append("no evaluation set: held-out splits can be drawn from the training set alone")
    return plan.report


def _alike(classes: tuple[str, ...]) -> list[str]:
    """Names that are others' but for case, spaces, dashes and the like."""
    spelled: dict[str, list[str]] = {}
    for name in dict.fromkeys(classes):
        spelled.setdefault(re.sub(r"[\s_-]+", "", name.casefold()), []).append(name)
    return [name for names in spelled.values() if len(names) > 1 for name in names]


def _put_in_place(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        os.rename(folder, target)
    except OSError:  # another file system
        aside = target.with_name(f".{target.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder, aside)
        aside.rename(target)
        shutil.rmtree(folder)
    shutil.rmtree(old, ignore_errors=True)


def _key(source: Path | None, options: Options, plan: Plan) -> str:
    """What resumable work belongs to: all files of the source by path, size and time, options, the division into shards, the
    code and the libraries that write them.

    Images that are skipped as bad are so after the shards are written, and change none.
    """
    tops = [path.resolve() for path in (source, options.ground_truth) if path is not None]
    files = [[str(top), list(map(list, _files(top)))] for top in tops]
    shards = [(shard.name, shard.samples) for shard in plan.shards]
    told = {name: str(value) for name, value in asdict(replace(options, skip_bad=False)).items()}
    return key_of(files, told, shards, code("data", "io.py"), versions())[:16]


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_dir():
        return ((file.name, file.size, file.time) for file in walk(path).files)
    facts = path.stat()
    return iter([("", facts.st_size, facts.st_mtime_ns)])
