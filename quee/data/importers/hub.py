"""Parquet files with the schema of the hub's image datasets, taken over as they are."""

import re
import shutil
from functools import partial
from pathlib import Path

from quee.data.importers import Plan, Shard, shard_name
from quee.data.rowgroups import open_parquet
from quee.errors import QueeError, UsageError
from quee.io import atomic_path

SPLITS = ("train", "test", "validation", "valid", "val")


def parquet_files(source: Path) -> list[Path]:
    return [source] if source.is_file() and source.suffix == ".parquet" else sorted(source.rglob("*.parquet"))


def plan(source: Path, files: list[Path]) -> Plan:
    """Files whose names begin with a split (`train-00000-of-00002.parquet`, `test.parquet`), or one in `train/`."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        split = _split(file, source)
        by_split.setdefault("validation" if split in ("valid", "val") else split, []).append(file)
    if "train" not in by_split:
        raise UsageError(f"{source}: no Parquet file of the training set, such as train-00000-of-00001.parquet")
    shards = []
    for split, paths in sorted(by_split.items()):
        for index, path in enumerate(paths):
            rows = open_parquet(path).metadata.num_rows
            _check_ids(path)
            shards.append(Shard(shard_name(split, index, len(paths)), rows, partial(_copy, path)))
    return Plan(shards, verify=True)


def _split(file: Path, source: Path) -> str:
    match = re.match(rf"({'|'.join(SPLITS)})(?=[-._])", file.name)
    if match:
        return match[1]
    if file.parent != source and file.parent.name in SPLITS:
        return file.parent.name
    raise UsageError(f"{file}: of which split? Its name must begin with one of {', '.join(SPLITS)} and a dash")


def _check_ids(path: Path) -> None:
    """Where a file numbers its samples itself, no number may come twice."""
    with open_parquet(path) as opened:
        for column in {"sample_id", "id"} & set(opened.schema_arrow.names):
            ids = opened.read(columns=[column]).column(column)
            if len(ids.unique()) < len(ids):
                raise QueeError(f"{path}: a value in column {column!r} is there twice")


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as aside:
        shutil.copyfile(source, aside)
