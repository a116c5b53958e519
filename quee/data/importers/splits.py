"""Finds the configuration and split of each Parquet file of a hub data set, from names alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quee.data.importers.report import Report, counted
from quee.data.importers.sets import choose_evaluation, role
from quee.data.walk import shown, some
from quee.errors import QueeError, UsageError

TOP = "default"
"""Name of a configuration whose files are directly in the source."""
_PART = re.compile(r"(?P<name>.+?)[-_](?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")
"""Pattern of one file of several, such as `train-00000-of-00002`."""
_ENDING = re.compile(r"[-_. ]?(?:(?:part|shard|chunk|file|snappy|zstd|gzip)[-_. ]?\d*|\d+|(?<=[-_.])[0-9a-f]{6,})$")
"""Endings of a name besides the split: a number, a digest, a word for one of several."""
_PREFIX = re.compile(r"(?P<config>.+)[-_.](?P<split>[A-Za-z]+)")


@dataclass(frozen=True)
class Part:
    """One Parquet file, with its place among the files of a split."""

    path: Path
    config: str
    split: str
    index: int | None = None
    count: int | None = None
    """Number of files of the split, where the name says it."""


def place(source: Path, name: str) -> Part:
    """The configuration and split of the file `name`, given with `/` below `source`.

    Raises UsageError where neither its name nor its folder's name tells the split.
    """
    *folders, file = name.split("/")
    part = _PART.fullmatch(stem := file.rpartition(".")[0])
    own = part["name"] if part else _bare(stem)
    numbers = (int(part["index"]), int(part["count"])) if part else (None, None)
    prefix = ""
    if role(own):
        split = own
    elif (parted := _PREFIX.fullmatch(own)) and role(parted["split"]):
        prefix, split = "" if parted["config"].isdigit() else parted["config"], parted["split"]
    elif folders and (role(folders[-1]) or not own):
        split = folders.pop()
    elif part:
        split = own
    else:
        valid = "train, validation or test and a dash"
        raise UsageError(
            f"{shown(source / name)}: of which split? Its name must begin with {valid}, or its folder's must"
        )
    while folders and role(folders[-1]) and role(folders[-1]) == role(split):
        folders.pop()
    config = "/".join([*folders, *([prefix] if prefix else [])])
    return Part(source / name, config or TOP, split, *numbers)


def _bare(stem: str) -> str:
    """A file's name without suffixes."""
    while (shorter := _ENDING.sub("", stem)) != stem:
        stem = shorter
    return stem


def choose_config(parts: list[Part], config: str | None, report: Report, source: str) -> list[Part]:
    """Files of the requested configuration, or of the only one; raises UsageError where the choice would be a guess."""
    by_config: dict[str, list[Part]] = {}
    for part in parts:
        by_config.setdefault(part.config, []).append(part)
    valid = f"valid for --config: {some(map(shown, sorted(by_config)))}"
    if config is None and len(by_config) > 1:
        raise UsageError(f"{source} has {len(by_config)} configurations, each a data set of its own: give one; {valid}")
    if config is None:
        return parts
    wanted = next((name for name in by_config if config.strip("/") in (name, shown(name))), None)
    if wanted is None:
        raise UsageError(f"--config {config!r}: no such configuration in {source}; {valid}")
    for name, others in sorted(by_config.items()):
        if name != wanted:
            report.leave(f"configuration {shown(name)}", len(others), counted(len(others), "file"))
    return by_config[wanted]


def by_split(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """Files by split, in order."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(part.split, []).append(part)
    for own in found.values():
        own.sort(key=lambda part: (part.index or 0, part.path.as_posix()))
    return found


def check_whole(split: str, own: list[Part]) -> None:
    """Raises QueeError where a file that the numbers in the names demand is missing or present twice."""
    counts = {part.count for part in own}
    if counts == {None}:
        return
    where, count = shown(own[0].path.parent), own[0].count or 0
    indices = [part.index for part in own]
    if len(counts) > 1 or len(set(indices)) < len(indices):
        names = some(shown(part.path.name) for part in own)
        raise QueeError(f"{where}: files of split {split} of more than one upload: {names}; keep those of one")
    if missing := sorted(set(range(count)) - {*indices}):
        names = some(f"{split}-{index:05d}-of-{count:05d}" for index in missing)
        raise QueeError(f"{where}: {len(own)} of {count} files of split {split} are there; missing: {names}")


def choose_splits(
    splits: Mapping[str, list[Part]], unusable: Mapping[str, str], wanted: str | None, preferred: list[str], source: str
) -> tuple[str, str | None]:
    """Names of the training and the evaluation split; `unusable` has splits without labels, with the reason."""
    trains = [name for name in splits if role(name) == "train"]
    if not trains:
        raise UsageError(f"{source}: no Parquet file of a split train; splits in it: {some(map(shown, splits))}")
    if len(trains) > 1:
        raise UsageError(f"{source}: {some(trains)} are training sets by their names; leave one")
    if trains[0] in unusable:
        raise QueeError(f"{source}: split {trains[0]}: {unusable[trains[0]]}")
    others = {name: role(name) for name in splits if name != trains[0] and name not in unusable}
    return trains[0], choose_evaluation(others, unusable, wanted, preferred, source)
