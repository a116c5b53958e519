"""`auto`: every segment at every precision by whichever engine is fastest here; measured once, remembered per machine."""

import json
import os
import platform
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from quee.io import file_digest
from quee.precision import Precision
from quee.runtime.engines.base import Engine, Step
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.export import graph_name

BATCH = 16
REPEATS = 5


def cpu_model() -> str:
    """The CPU's name and its instruction sets' digest, on which the choice of kernels depends."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if line.count(":"))
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    sets = sha256(fields.get("flags", fields.get("Features", "")).encode()).hexdigest()[:8]
    return f"{fields.get('model name', platform.machine())} {sets}"


def cache_file() -> Path:
    """Where measurements are remembered: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quee" / "engines.json"


def least_seconds(
    engine: Engine, segment: int, precision: Precision, state: np.ndarray, repeats: int = REPEATS
) -> float:
    """Least time of a step, after one that compiles."""
    engine.run(segment, precision, state)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        engine.run(segment, precision, state)
        times.append(time.perf_counter() - start)
    return min(times)


class AutoEngine:
    """Takes the fastest of several engines for each (segment, precision)."""

    name = "auto"

    def __init__(self, engines: Sequence[Any], graphs: Path | None, threads: int) -> None:
        self.engines = {engine.name: engine for engine in engines}
        self.graphs, self.threads = graphs, threads
        self._chosen: dict[tuple[int, Precision], Engine] = {}
        self._lock = Lock()

    @property
    def version(self) -> str:
        return ", ".join(f"{name} {engine.version}" for name, engine in self.engines.items())

    def chosen(self, segment: int, precision: Precision, state: np.ndarray) -> Engine:
        """The engine for a segment and precision, timed on a state before it if that was not done on this machine yet."""
        if (segment, precision) not in self._chosen:
            with self._lock:
                if (segment, precision) not in self._chosen:
                    self._chosen[segment, precision] = self._probe(segment, precision, state)
        return self._chosen[segment, precision]

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        return self.chosen(segment, precision, state).run(segment, precision, state)

    def warm(self, segment: int, precision: Precision, batch: int) -> None:
        """Have whichever engine was chosen compile what batches of up to `batch` samples take."""
        if isinstance(chosen := self._chosen.get((segment, precision)), GraphEngine):
            chosen.warm(segment, precision, batch)

    def executed(self, precision: Precision) -> str:
        ways = {e.executed(precision) for (_, p), e in self._chosen.items() if p == precision}
        return " / ".join(sorted(ways or {e.executed(precision) for e in self.engines.values()}))

    def _probe(self, segment: int, precision: Precision, state: np.ndarray) -> Engine:
        if len(self.engines) == 1:
            return next(iter(self.engines.values()))
        graph = self.graphs and self.graphs / graph_name(
            segment, Precision("fp32") if precision.is_float else precision
        )
        if graph is None or not graph.is_file():
            return self.engines["torch"]
        key = f"{cpu_model()}; {self.version}; threads {self.threads}; {precision} {file_digest(graph)}"
        remembered = _remembered()
        if (name := remembered.get(key)) not in self.engines:
            sample = np.resize(state, (BATCH, *state.shape[1:]))
            seconds = {n: least_seconds(e, segment, precision, sample) for n, e in self.engines.items()}
            name = min(sorted(seconds), key=seconds.__getitem__)
            _remember(key, name)
        return self.engines[name]


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(key: str, name: str) -> None:
    """A cache that cannot be written is done without."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(json.dumps({**_remembered(), key: name}, indent=1, sort_keys=True), encoding="utf-8")
        aside.replace(path)
    except OSError:
        return
