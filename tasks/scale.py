"""Settings of the machine: where the heavy stages compute and keep their shards. They are no part of a result's
digest. The device alone changes last bits of floating-point parts: results name it, and unfinished work of one device is not
continued on another.

By default as many processes compute shards as cores and memory allow, if the work is large enough. Each setting is an
environment variable or a line of `.quee/scale.yaml` (which is not versioned); the variable has priority:

    executor: dask                        # QUEE_EXECUTOR: inline, processes, dask
    workers: 4                            # QUEE_WORKERS: local processes
    dask: tcp://scheduler:8786            # QUEE_DASK, or Dask's own DASK_SCHEDULER_ADDRESS
    shards: s3://bucket/quee              # QUEE_SHARDS: a path or any URL that fsspec knows
    shard_size: 64                        # QUEE_SHARD_SIZE: samples
    device: cpu                           # QUEE_DEVICE: auto, cpu, cuda; what runs networks
"""

import os
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import yaml

from quee.errors import UsageError
from quee.network.device import CPU, DEVICES, GPU, gpus, resolved
from quee.settings.text import read_text
from quee.work.store import Store
from quee.work.threads import cores, free_memory
from quee.work.workers import EXECUTORS, Lanes, Workers
from tasks.stage import Stage
from tasks.stages import STAGES
from tasks.work.lifeline import die_with_parent

FILE = Path(".quee") / "scale.yaml"
VARIABLES = {
    "executor": ("QUEE_EXECUTOR",),
    "workers": ("QUEE_WORKERS",),
    "dask": ("QUEE_DASK", "DASK_SCHEDULER_ADDRESS"),
    "shards": ("QUEE_SHARDS",),
    "shard_size": ("QUEE_SHARD_SIZE",),
    "device": ("QUEE_DEVICE",),
}


MACS_PER_SECOND = 15e9
"""Multiply-adds per second and core with simulated quantization; measured: 13e9 for T2T-ViT-14, 15e9 for digits."""
GPU_MACS_PER_SECOND = 1e12
"""The same on a GPU. An estimate from the peak of float32, not a measurement; it only decides whether workers are started."""
PER_GPU = 4
"""Most workers on one GPU: one decodes images or writes while another computes."""
START_SECONDS = 10.0
"""Workers are started if they save at least this many seconds; starting one takes 5 s of a core."""
WORKER_BYTES = 2 << 30
"""Memory of a worker: 1.2 GB of libraries and a small network, 2 GB with a larger one."""


@dataclass(frozen=True)
class Scale:
    """The settings, checked."""

    executor: str
    workers: int
    dask: str | None
    shards: str | None
    shard_size: int
    given: bool = True
    """Whether executor or workers were set; if not, small work stays in the stage's own process."""
    wanted: tuple[str, str] = ("auto", "device")
    """The setting `device`, and where it stands."""

    @cached_property
    def device(self) -> str:
        """What runs networks: `cpu` or `cuda`. Imports PyTorch. Raises UsageError for `cuda` on a machine without a GPU."""
        return resolved(*self.wanted)

    def refuse_absent(self) -> None:
        """Raises UsageError for a device that is asked for and not there; imports PyTorch only to find out."""
        if self.wanted[0] == GPU:
            resolved(*self.wanted)

    def lanes(self, macs: float) -> Lanes:
        """The executor for shards in which networks run `macs` multiply-adds in all."""
        if self.device == CPU:
            return self.lanes_for(macs / MACS_PER_SECOND)
        workers = self.workers if self.given else min(self.workers, PER_GPU * gpus())
        return self._lanes(macs / GPU_MACS_PER_SECOND, workers, gpus())

    def lanes_for(self, seconds: float) -> Lanes:
        """The executor for shards without networks that take so many seconds of a core in all."""
        return self._lanes(seconds, self.workers)

    def _lanes(self, seconds: float, workers: int, gpus: int = 0) -> Lanes:
        executor = self.executor
        if not self.given:
            saved = seconds * (1 - 1 / workers)
            executor, workers = ("inline", 1) if saved < START_SECONDS else (executor, affordable(workers))
        # Local workers would outlive a killed stage and keep its output open, so that readers would wait.
        return EXECUTORS[executor](Workers(workers, self.dask, partial(die_with_parent, always=True), gpus))

    def work(self, stage: Stage) -> Path:
        """Folder for a stage's unfinished work. What networks leave is apart by device; other stages have none to ask for."""
        if STAGES[stage.name].reads_cache:
            return stage.partial
        folder = stage.partial / self.device
        folder.mkdir(exist_ok=True)
        return folder

    def store(self, stage: Stage) -> Store:
        """The folder of the stage's shards, named after everything that decides them; it is removed when the stage succeeds."""
        work, whole = self.work(stage), stage.partial
        store = self.place(work, stage.name, whole.name, *work.relative_to(whole).parts)
        if self.shards is not None:
            stage.on_success.append(store.discard)
        return store

    def place(self, folder: Path, *names: str) -> Store:
        """The folder for shards: `folder`, or the folder called `names` below the setting `shards`."""
        if self.shards is None:
            return Store(str(folder.resolve()))
        base = Store(self.shards if "://" in self.shards else str(Path(self.shards).resolve()))
        for name in names:
            base /= name
        return base


def read_scale(environment: dict[str, str] | None = None, file: Path = FILE) -> Scale:
    """The settings of this machine. Raises UsageError naming an unknown or invalid setting."""
    environment = dict(os.environ) if environment is None else environment
    found: dict[str, tuple[str, str]] = {}
    if file.is_file():
        try:
            content = yaml.safe_load(read_text(file)) or {}
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

    executor = found["executor"][0] if "executor" in found else None
    alone = "workers" in found or executor not in (None, "processes")
    workers = whole("workers", 1 if alone else cores())
    executor = executor or ("processes" if workers > 1 else "inline")
    dask, shards = (found[key][0] if key in found else None for key in ("dask", "shards"))
    given = "executor" in found or "workers" in found
    wanted = found.get("device", ("auto", "device"))
    if wanted[0] not in DEVICES:
        raise UsageError(f"{wanted[1]}={wanted[0]!r}; valid: {', '.join(DEVICES)}")
    return Scale(executor, workers, dask, shards, whole("shard_size", 64), given, wanted)


def affordable(workers: int) -> int:
    """The number of workers that fit into memory, at most `workers`; prints the reason if it is smaller."""
    free = free_memory()
    if free is None or (possible := max(1, free // WORKER_BYTES)) >= workers:
        return workers
    print(
        f"{possible} of {workers} cores are used: {free / 2**30:.1f} GB of memory are free, a worker may need "
        f"{WORKER_BYTES / 2**30:.0f} GB (QUEE_WORKERS sets another number)",
        file=sys.stderr,
    )
    return possible
