"""Importers: files of the public formats to hub-schema Parquet. Nothing in a file is executed or extracted by its path.

An importer turns a source into a plan, a list of shards. `import_dataset` writes the shards that are not written yet and
then puts all of them in place at once. A new format is a file with an `IMPORTER` and a line of `IMPORTERS`.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from quee.data import RESERVED, dataset_called
from quee.data.importers import (
    cifar,
    cluttered_fashion,
    digits,
    folders,
    hub,
    idx,
    imagenet,
    street_characters,
    svhn,
    unlabelled,
)
from quee.data.importers.base import Answering, Importer, Options, Plan, Shard, Source, inline
from quee.data.importers.inspection import inspect_images, without_bad
from quee.data.importers.report import Report
from quee.data.walk import shown, some, walk
from quee.errors import UsageError
from quee.work.keys import code, key_of, versions
from quee.work.progress import progress
from quee.work.workers import Lanes

__all__ = ["IMPORTERS", "Importer", "Options", "Plan", "Report", "Shard", "Source", "import_dataset", "plan_import"]

PARTIAL = Path(".quee") / "partial" / "import"
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
"""Endings of archives, in lower case."""
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


IMPORTERS = [
    unlabelled.IMPORTER,
    digits.IMPORTER,
    cluttered_fashion.IMPORTER,
    street_characters.IMPORTER,
    hub.IMPORTER,
    idx.IMPORTER,
    cifar.IMPORTER,
    svhn.IMPORTER,
    imagenet.IMPORTER,
    folders.IMPORTER,
]
"""The formats in the order in which they are tried; the first that recognises the source reads it."""


def plan_import(
    name: str,
    path: Path | None,
    options: Options,
    lanes: Callable[[float], Lanes] = inline,
    answering: Answering | None = None,
) -> Plan:
    """The shards of dataset `name` from the file or folder `path`; raises QueeError where the source does not fit the format."""
    source = Source(name, path, options, lanes, answering)
    for importer in IMPORTERS:
        if found := importer.recognise(source):
            importer.check(source)
            return importer.plan(source, found)
    packed = "; unpack it first" if source.path.suffix.lower() in PACKED else ""
    raise UsageError(
        f"{shown(source.path)} is neither a folder of class folders nor of Parquet files with images{packed}"
    )


def import_dataset(
    name: str,
    source: Path | None,
    target: Path,
    options: Options = Options(),  # noqa: B008 - frozen
    replace: bool = False,
    lanes: Callable[[float], Lanes] = inline,
    answering: Answering | None = None,
) -> Report:
    """Import into the folder `target`, whole or not at all; a re-run goes on after the last shard written.

    `lanes` chooses the executor for images that are drawn, by the seconds of a core that it takes. `answering` is the
    network of `options.answers`.

    Returns the report: what was left out, chosen or merged, and duplicates. Raises QueeError naming the fault of the
    source, IntegrityError where it is damaged, UsageError for a bad name or a target that exists.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        others = " or ".join(map(repr, RESERVED))
        raise UsageError(f"dataset name {name!r}; valid: lower-case letters, digits and _, and not {others}")
    if target.exists() and any(target.iterdir()) and not replace:
        raise UsageError(f"{target} is there already; give --replace to import it anew")
    plan = plan_import(name, source, options, lanes, answering)
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
    """Names that differ from another name only in case, spaces and dashes."""
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
    """Key of an import: all files of the source by path, size and time, the options, the division into shards, and the code
    and libraries that write them. `skip_bad` is left out, because bad images are removed after the shards are written.
    """
    table = Path(options.group) if options.group and Path(options.group).is_file() else None
    beside = Path(options.labelled) if options.labelled and Path(options.labelled).is_dir() else None
    tops = [path.resolve() for path in (source, options.ground_truth, table, beside) if path is not None]
    files = [[str(top), list(map(list, _files(top)))] for top in tops]
    shards = [(shard.name, shard.samples) for shard in plan.shards]
    told = {name: str(value) for name, value in asdict(replace(options, skip_bad=False)).items()}
    if plan.answers is not None:
        told["network"] = str(sorted(plan.answers.items()))
    return key_of(files, told, shards, code("data", "work/io.py"), versions())[:16]


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_dir():
        return ((file.name, file.size, file.time) for file in walk(path).files)
    facts = path.stat()
    return iter([("", facts.st_size, facts.st_mtime_ns)])
