"""Where the heavy stages compute and keep their shards: settings of the machine, which never change a result.

Each is an environment variable or a line of `.quee/scale.yaml` (which is not versioned); the variable wins:

    executor: dask                        # QUEE_EXECUTOR: inline, processes, dask
    workers: 4                            # QUEE_WORKERS: local processes
    dask: tcp://scheduler:8786            # QUEE_DASK, or Dask's own DASK_SCHEDULER_ADDRESS
    shards: s3://bucket/quee              # QUEE_SHARDS: a path or any URL that fsspec knows
    shard_size: 64                        # QUEE_SHARD_SIZE: samples
"""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from quee.errors import UsageError
from quee.executors import EXECUTORS, Lanes, Workers
from quee.shards import ShardStore
from tasks.lifeline import die_with_parent
from tasks.stage import Stage

FILE = Path(".quee") / "scale.yaml"
VARIABLES = {
    "executor": ("QUEE_EXECUTOR",),
    "workers": ("QUEE_WORKERS",),
    "dask": ("QUEE_DASK", "DASK_SCHEDULER_ADDRESS"),
    "shards": ("QUEE_SHARDS",),
    "shard_size": ("QUEE_SHARD_SIZE",),
}


@dataclass(frozen=True)
class Scale:
    """The settings, checked."""

    executor: str
    workers: int
    dask: str | None
    shards: str | None
    shard_size: int

    def lanes(self) -> Lanes:
        # Local workers would outlive a killed stage, waiting for work, and keep whoever reads its output waiting too.
        return EXECUTORS[self.executor](Workers(self.workers, self.dask, die_with_parent))

    def store(self, stage: Stage) -> ShardStore:
        """Where the stage's shards are: under a name that covers all that decides them. Removed when it succeeds."""
        whole = self.place(stage.partial, stage.name, stage.partial.name)
        if self.shards is not None:
            stage.on_success.append(whole.discard)
        return whole

    def place(self, folder: Path, *names: str) -> ShardStore:
        """A folder for shards, or what bears these names where `shards` says that they are kept."""
        if self.shards is None:
            return ShardStore(str(folder.resolve()))
        base = ShardStore(self.shards if "://" in self.shards else str(Path(self.shards).resolve()))
        for name in names:
            base /= name
        return base


def read_scale(environment: dict[str, str] | None = None, file: Path = FILE) -> Scale:
    """The settings of this machine. Raises UsageError naming one that is not known or not valid."""
    environment = dict(os.environ) if environment is None else environment
    found: dict[str, tuple[str, str]] = {}
    if file.is_file():
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            found = {str(key): (str(value), f"{file}: {key}") for key, value in content.items()}
        except (yaml.YAMLError, AttributeError):
            raise UsageError(f"{file}: expected lines such as `executor: dask`") from None
    for name in found:
        if name not in VARIABLES:
            raise UsageError(f"{file}: unknown key {name!r}; valid: {', '.join(VARIABLES)}")
    for key, names in VARIABLES.items():
        for name in reversed(names):
            if environment.get(name) and (name != "DASK_SCHEDULER_ADDRESS" or key not in found):
                found[key] = (environment[name], name)

    def whole(key: str, default: int) -> int:
        text, where = found.get(key, (str(default), key))
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(f"{where}={text!r}: give a whole number from 1")
        return int(text)

    workers = whole("workers", 1)
    executor = found.get("executor", ("processes" if workers > 1 else "inline", ""))[0]
    dask, shards = (found[key][0] if key in found else None for key in ("dask", "shards"))
    return Scale(executor, workers, dask, shards, whole("shard_size", 64))
