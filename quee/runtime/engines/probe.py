"""Engine `auto`: for every segment and precision, the fastest engine of exported graphs that agrees with the reference.

PyTorch, the reference itself, takes seconds to import and is slower. It is taken where there is no graph or no engine
agrees. Speed is measured once and remembered per machine. Agreement is checked every time.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from quee.errors import DisagreementError, QueeError
from quee.precision import Precision
from quee.runtime.engines.base import Engine, Reference, Step, graph_name
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.engines.held import Graphs
from quee.runtime.engines.memory import remember, remembered
from quee.work.io import file_digest
from quee.work.machine import cpu_model

BATCH = 16
REPEATS = 5
LOG = logging.getLogger(__name__)


def least_seconds(
    engine: Engine, segment: int, precision: Precision, state: np.ndarray, repeats: int = REPEATS
) -> float:
    """Shortest time of a step, after a first one that compiles."""
    engine.run(segment, precision, state)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        engine.run(segment, precision, state)
        times.append(time.perf_counter() - start)
    return min(times)


class AutoEngine:
    """Uses the fastest of several engines for each (segment, precision)."""

    name = "auto"

    def __init__(
        self, engines: Sequence[Any], graphs: Path | None, threads: int, torch: Callable[[], Engine] | None = None
    ) -> None:
        """`torch` opens engine torch. It is called only where none of `engines` can execute a step."""
        self.engines = {engine.name: engine for engine in engines}
        self.held = Graphs()
        """The compiled graphs of all engines."""
        for engine in self.engines.values():
            if isinstance(engine, GraphEngine):
                engine.held = self.held
        self._open = torch
        self.graphs, self.threads = graphs, threads
        self.reference: Reference | None = None
        """The reference that an engine is compared with before it runs a segment."""
        self.refused: dict[str, str] = {}
        """Engines refused for a segment, with the first reason."""
        self._chosen: dict[tuple[int, Precision], Engine] = {}
        self._lock = Lock()

    @cached_property
    def torch(self) -> Engine:
        """Raises QueeError where PyTorch is not installed."""
        if self._open is None:
            raise QueeError(f"none of the engines {', '.join(self.engines)} executes this")
        return self._open()

    @property
    def version(self) -> str:
        engines = self.engines or {"torch": self.torch}
        return ", ".join(f"{name} {engine.version}" for name, engine in engines.items())

    def chosen(self, segment: int, precision: Precision, state: np.ndarray) -> Engine:
        """The engine for a segment and precision; timed on a state before it unless this machine remembers the result."""
        if (found := self._chosen.get((segment, precision))) is None:
            with self._lock:
                if (found := self._chosen.get((segment, precision))) is None:
                    found = self._probe(segment, precision, state)
                    for other in self.engines.values():
                        if other is not found and isinstance(other, GraphEngine):
                            other.drop(segment, precision)  # graphs that were only compared or timed
                    self._chosen[segment, precision] = found
        return found

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        return self.chosen(segment, precision, state).run(segment, precision, state)

    def compiling(self, segment: int, precision: Precision) -> GraphEngine | None:
        """The engine chosen for a step, if it compiles graphs."""
        chosen = self._chosen.get((segment, precision))
        return chosen if isinstance(chosen, GraphEngine) else None

    def executed(self, precision: Precision) -> str:
        ways = {e.executed(precision) for (_, p), e in self._chosen.items() if p == precision}
        engines = self.engines.values() or [self.torch]
        return " / ".join(sorted(ways or {engine.executed(precision) for engine in engines}))

    def _probe(self, segment: int, precision: Precision, state: np.ndarray) -> Engine:
        graph = self.graphs and self.graphs / graph_name(
            segment, Precision("fp32") if precision.is_float else precision
        )
        if not self.engines or graph is None or not graph.is_file():
            return self._held(self.torch, segment, precision, len(state))
        ways = ", ".join(f"{n} {self.engines[n].executed(precision)}" for n in self._differing(precision))
        key = f"{cpu_model()}; {self.version}; threads {self.threads}; {ways}; {precision} {file_digest(graph)}"
        name = remembered(key)
        if name is None or name not in self.engines or not self._agrees(name, segment, precision, len(state)):
            names = [n for n in self._differing(precision) if self._agrees(n, segment, precision, len(state))]
            if not names:
                return self._reference(segment, precision, len(state))
            name = names[0] if len(names) == 1 else self._fastest(names, segment, precision, state)
            remember(key, name)
        return self.engines[name]

    def _differing(self, precision: Precision) -> list[str]:
        """The engines that are worth trying for a precision."""
        every = self.engines.items()
        return [name for name, engine in every if not isinstance(engine, GraphEngine) or engine.differs(precision)]

    def _reference(self, segment: int, precision: Precision, batch: int) -> Engine:
        """Engine torch, where no other agrees; raises DisagreementError where it is not installed or differs too."""
        try:
            return self._held(self.torch, segment, precision, batch)
        except DisagreementError:
            raise
        except QueeError:
            raise DisagreementError(next(iter(self.refused.values()))) from None

    def _fastest(self, names: Sequence[str], segment: int, precision: Precision, state: np.ndarray) -> str:
        """Name of the fastest of several engines."""
        given = state if self.reference is None else self.reference.before(segment)
        sample = np.resize(given, (BATCH, *state.shape[1:]))
        seconds = {}
        for name in names:
            seconds[name] = least_seconds(engine := self.engines[name], segment, precision, sample)
            if isinstance(engine, GraphEngine):
                engine.drop(segment, precision, len(state))  # a graph that was only timed
        return min(sorted(seconds), key=seconds.__getitem__)

    def _held(self, engine: Engine, segment: int, precision: Precision, batch: int) -> Engine:
        """The engine; raises DisagreementError where it differs from the reference by more than is allowed.

        It is compared at the caller's batch size, whose graph is needed anyway: a graph of another size takes as long to compile.
        """
        if self.reference is not None:
            self.reference.check_step(engine, segment, precision, batch)
        return engine

    def _agrees(self, name: str, segment: int, precision: Precision, batch: int) -> bool:
        try:
            self._held(self.engines[name], segment, precision, batch)
        except DisagreementError as error:
            if name not in self.refused:
                self.refused[name] = str(error)
                LOG.warning("%s. Engine auto goes on with another.", error)
            return False
        return True
