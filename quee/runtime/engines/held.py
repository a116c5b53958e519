"""Compiled graphs that engines hold in memory, and which of them go where there is not enough.

A graph compiled for one batch size takes megabytes, whatever it holds. Where a limit leaves no room for another one, a
smaller batch runs padded in a larger graph of its step. Only a step without such a graph gets a new one, in the place of
the graphs used least recently.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, sqrt
from statistics import mean
from threading import RLock

import numpy as np

from quee.work.machine import resident_bytes

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Inputs (n, …) to the graph's outputs, which belong to the caller. Safe to call from several threads."""
Step = tuple[str, int, str]
"""Engine, segment, and precision."""


@dataclass(slots=True, eq=False)
class Held:
    """A graph compiled for batches of up to `size` samples."""

    step: Step
    size: int
    run: Run | None
    """None once it was dropped."""
    taken: float
    """Bytes that it takes: what the process grew by, or the mean of the others where that says nothing."""
    used: float = 0.0
    """When it last ran, in seconds on the monotonic clock."""


@dataclass(eq=False)
class Graphs:
    """The compiled graphs of an engine, or of several that share them."""

    limit: float = inf
    """Bytes that graphs may take together; one graph may always be there."""
    held: list[Held] = field(default_factory=list)
    lock: RLock = field(default_factory=RLock)
    """Held while graphs are compiled, added or dropped."""
    _measured: dict[str, list[float]] = field(default_factory=dict)
    """By engine, the bytes that the process grew by for each graph, until the first was dropped: later ones fill its memory."""
    _dropped: bool = False

    def taken(self) -> float:
        """Bytes that all take together."""
        return sum(graph.taken for graph in self.held)

    def has_room(self) -> bool:
        """Whether another graph of mean size stays within the limit."""
        return not self.held or self.taken() + mean(graph.taken for graph in self.held) <= self.limit

    def find(self, step: Step, size: int, load: Callable[[int], Run]) -> tuple[Held, Run]:
        """The graph for a step's batches of a size on its ladder: that size's own, which `load` compiles, or a larger one where
        there is no room for it."""
        with self.lock:
            fitting = min(
                (g for g in self.held if g.step == step and g.size >= size), key=lambda g: g.size, default=None
            )
            if fitting is not None and fitting.run is not None and (fitting.size == size or not self.has_room()):
                return fitting, fitting.run
            before = resident_bytes()
            run = load(size)
            grown, known = float(max(resident_bytes() - before, 0)), self._measured.setdefault(step[0], [])
            if not self._dropped or not known:
                known.append(grown)
            found = Held(step, size, run, mean(known) if self._dropped else grown, time.monotonic())
            self.held.append(found)
            self._shrink(found)
            return found, run

    def drop(self, step: Step | None = None, but: int | None = None) -> None:
        """Forget the graphs of a step, or all, except those of size `but`."""
        with self.lock:
            for graph in [graph for graph in self.held if step in (None, graph.step) and graph.size != but]:
                self._forget(graph)

    def _forget(self, graph: Held) -> None:
        self.held.remove(graph)
        graph.run, self._dropped = None, True

    def _shrink(self, newest: Held) -> None:
        """Forget graphs until the limit holds: first those whose step has a larger graph, the least recently used first."""
        while self.taken() > self.limit and len(self.held) > 1:
            others = [graph for graph in self.held if graph is not newest]
            spare = [g for g in others if any(o.step == g.step and o.size > g.size for o in self.held)]
            self._forget(min(spare or others, key=lambda graph: graph.used))


def coarse_to_fine(sizes: Sequence[int]) -> Iterator[int]:
    """The sizes of a rising ladder in the order in which each saves most padding: the largest, the smallest, then always one in
    the middle of the widest gap, by ratio.

    >>> list(coarse_to_fine([1, 2, 4, 8, 16]))
    [16, 1, 4, 2, 8]
    """
    yield sizes[-1]
    if len(sizes) > 1:
        yield sizes[0]
    done = {0, len(sizes) - 1}
    while len(done) < len(sizes):
        ends = sorted(done)
        gaps = [(a, b) for a, b in pairwise(ends) if b - a > 1]
        a, b = max(gaps, key=lambda gap: sizes[gap[1]] / sizes[gap[0]])
        middle = sqrt(sizes[a] * sizes[b])
        chosen = min(range(a + 1, b), key=lambda i: abs(np.log(sizes[i] / middle)))
        done.add(chosen)
        yield sizes[chosen]
