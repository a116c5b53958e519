"""Importers: files of the public formats to hub-schema Parquet. Nothing in a file is executed or extracted by its path.

An importer turns a source into a plan, a list of shards; `import_dataset` writes those not written yet and puts the
whole in place at once.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from quee.data import DATASETS, unregistered
from quee.errors import IntegrityError, QueeError, UsageError
from quee.keys import code, key_of, stats_below, versions
from quee.progress import progress

PARTIAL = Path(".quee") / "partial" / "import"
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Shard:
    """One file of a dataset: `write(path)` makes it, whole or not at all."""

    name: str
    samples: int
    write: Callable[[Path], object]


@dataclass(frozen=True)
class Options:
    """What an importer may be told besides the source."""

    extra: bool = False
    """SVHN: add the extra set to the training set."""
    ground_truth: Path | None = None
    """ImageNet: labels of the validation images, instead of the devkit's."""


@dataclass(frozen=True)
class Plan:
    shards: list[Shard] = field(default_factory=list)
    verify: bool = False
    """Whether images were taken over as they are, so must be shown to decode."""


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def plan_import(name: str, source: Path | None, options: Options) -> Plan:
    """The shards of dataset `name` out of `source`; raises QueeError on what does not fit the format."""
    from quee.data.importers import cifar, digits, hub, idx, imagenet, located, svhn

    if name == "digits":
        return digits.plan()
    if source is None:
        raise UsageError(f"dataset {name!r} needs a source, a file or folder")
    if not source.exists():
        raise UsageError(f"source {source} does not exist")
    if parquet := hub.parquet_files(source):
        return hub.plan(source, parquet)
    if name in ("mnist", "fashion_mnist"):
        return idx.plan(name, source)
    if name in ("cifar10", "cifar100"):
        return cifar.plan(name, source)
    if name == "svhn":
        return svhn.plan(source, options.extra)
    if name == "imagenet" and imagenet.has_tars(source):
        return imagenet.plan(source, options.ground_truth)
    if source.is_dir():
        return located.plan_folders(source)
    raise UsageError(f"{source} is neither a folder of class folders nor of Parquet files with images")


def import_dataset(
    name: str, source: Path | None, target: Path, options: Options = Options(), replace: bool = False
) -> None:
    """Import into the folder `target`, whole or not at all; a re-run goes on after the last shard written.

    Raises QueeError naming what is wrong with the source, UsageError for a bad name or a target that is there.
    """
    try:
        _import(name, source, target, options, replace)
    except IntegrityError as error:  # what is damaged is the source, nothing of the project
        raise QueeError(str(error)) from None


def _import(name: str, source: Path | None, target: Path, options: Options, replace: bool) -> None:
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
    try:
        _check(name, folder, plan)
    except QueeError:
        shutil.rmtree(folder)  # the source must change, and may do so without this noticing
        raise
    _put_in_place(folder, target)


def _check(name: str, folder: Path, plan: Plan) -> None:
    """Open the imported whole as it will be used; decode what was not encoded here."""
    from quee.data.check import bad_images
    from quee.data.files import DatasetFiles

    images = DatasetFiles(folder, DATASETS[name] if name in DATASETS else unregistered(name))
    if not len(images):
        raise QueeError(f"{folder}: no images")
    if plan.verify:
        for fault in bad_images(images, f"checking {name}"):
            raise QueeError(fault.removeprefix(f"{folder}: "))


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
    """What resumable work belongs to: source files at every depth by name, size and time, options, the division into
    shards, the code and the libraries that write them."""
    files = [] if source is None else [str(source.resolve()), stats_below(source)]
    shards = [(shard.name, shard.samples) for shard in plan.shards]
    return key_of(files, str(options), shards, code("data", "io.py"), versions())[:16]
