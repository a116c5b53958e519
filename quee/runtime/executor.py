"""The adaptive executor: after every gate samples regroup by what they do next, whatever their past.

What is known of samples lies side by side in one table; what travels are their states, with the rows of the table they
belong to. Python's loops run over groups, never over samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quee.data.transforms import _mix
from quee.policies import EXIT
from quee.runtime.engines.base import Engine
from quee.runtime.router import Router

BATCH = 256
"""Samples that start together; more only take more memory."""


class Samples:
    """A table with one row, a slot, per sample."""

    def __init__(self, slots: int, segments: int, features: int) -> None:
        self.trade_off = np.zeros(slots)
        self.max_cost = np.full(slots, np.inf)
        """Infinite where there is no limit."""
        self.node = np.full(slots, -1)
        """Where a sample stands; -1 before segment 1."""
        self.features = np.zeros((slots, segments, features), np.float32)
        """Of the gates visited."""
        self.error = np.full((slots, segments - 1), np.nan, np.float32)
        """Predicted error of leaving at each gate visited; NaN elsewhere."""

    def admit(self, slots: np.ndarray | slice, trade_off: np.ndarray, max_cost: np.ndarray) -> None:
        """Put new samples in slots, before segment 1."""
        self.trade_off[slots], self.max_cost[slots] = trade_off, max_cost
        self.node[slots], self.error[slots] = -1, np.nan


@dataclass(frozen=True)
class Flight:
    """States of n samples that stand before the same segment."""

    slots: np.ndarray
    """(n,)"""
    state: np.ndarray
    """(n, c, h, w) prepared images, or (n, tokens, dim); float32."""

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, rows: np.ndarray | slice) -> "Flight":
        return Flight(self.slots[rows], self.state[rows])

    @staticmethod
    def joined(parts: Sequence["Flight"]) -> "Flight":
        if len(parts) == 1:
            return parts[0]
        return Flight(np.concatenate([p.slots for p in parts]), np.concatenate([p.state for p in parts]))

    def by_step(self, steps: np.ndarray) -> Iterator[tuple[int, "Flight"]]:
        """Those that go on, by their next step (n,): each group copied once, and not at all where it is everybody."""
        for step in range(EXIT + 1, int(steps.max(initial=EXIT)) + 1):
            if len(rows := np.flatnonzero(steps == step)):
                yield step, self if len(rows) == len(self) else self.take(rows)


Seen = Callable[[int, np.ndarray, np.ndarray], None]
"""Told of samples at a gate: the gate, their slots (n,), their log probabilities (n, classes)."""


class Executor:
    """Runs flights on an engine as a router decides. Safe to call from several threads, on samples of their own."""

    def __init__(self, engine: Engine, router: Router, features: int, batch: int = BATCH) -> None:
        """`features` is how many state features a gate sees."""
        self.engine, self.router, self.features, self.batch = engine, router, features, batch
        self.tree = router.tree

    def samples(self, slots: int) -> Samples:
        return Samples(slots, self.tree.segments, self.features)

    def advance(self, segment: int, choice: int, samples: Samples, flight: Flight) -> tuple[Flight, np.ndarray]:
        """Run a segment at a precision: the flight behind it, and log probabilities (n, classes) at its gate."""
        ran = self.engine.run(segment, self.tree.precisions[choice], flight.state)
        samples.node[flight.slots] = self.tree.children[samples.node[flight.slots], choice]
        samples.features[flight.slots, segment - 1] = ran.features
        state = np.empty((len(flight), 0), np.float32) if ran.state is None else ran.state
        return Flight(flight.slots, state), ran.log_probs

    def decide(self, gate: int, samples: Samples, slots: np.ndarray) -> np.ndarray:
        """The next step (n,) of samples that stand at a gate; EXIT at the last."""
        if gate == self.tree.segments:
            return np.full(len(slots), EXIT)
        features, node = samples.features[slots, :gate], samples.node[slots]
        step, error = self.router.decide(gate, node, features, samples.trade_off[slots], samples.max_cost[slots])
        samples.error[slots, gate - 1] = error
        return step

    def run(self, samples: Samples, flight: Flight, first: np.ndarray, ended: Seen, seen: Seen | None = None) -> None:
        """Run samples from segment 1, with first steps (n,), to their ends, gate by gate.

        `ended` is told of those that leave, `seen` of all at every gate.
        """
        for start in range(0, len(flight), self.batch):
            some = slice(start, start + self.batch)
            part = flight if len(flight) <= self.batch else flight.take(some)
            waiting: Mapping[int, Sequence[Flight]] = {step: [group] for step, group in part.by_step(first[some])}
            for segment in range(1, self.tree.segments + 1):
                waiting = self._pass(segment, samples, waiting, ended, seen)

    def _pass(
        self,
        segment: int,
        samples: Samples,
        waiting: Mapping[int, Sequence[Flight]],
        ended: Seen,
        seen: Seen | None,
    ) -> dict[int, list[Flight]]:
        """All groups through a segment, one decision for all of them, and who waits for the next segment."""
        behind = [self.advance(segment, choice, samples, Flight.joined(waiting[choice])) for choice in sorted(waiting)]
        onward: dict[int, list[Flight]] = {}
        if not behind:
            return onward
        steps = self.decide(segment, samples, np.concatenate([flight.slots for flight, _ in behind]))
        at = 0
        for flight, log_probs in behind:
            own = steps[at : at + len(flight)]
            at += len(flight)
            if seen is not None:
                seen(segment, flight.slots, log_probs)
            if len(leaves := np.flatnonzero(own == EXIT)):
                ended(segment, flight.slots[leaves], log_probs[leaves])
            for step, group in flight.by_step(own):
                onward.setdefault(step, []).append(group)
        return onward


@lru_cache(maxsize=8)
def _powers(count: int) -> np.ndarray:
    return np.multiply.accumulate(np.full(count, 0x9E3779B97F4A7C15, np.uint64))


def draws(images: np.ndarray) -> np.ndarray:
    """A number (n,) in [0, 1) for each prepared image (n, …), float32, by its own pixels alone."""
    pixels = np.ascontiguousarray(images, np.float32).reshape(len(images), -1)
    words: np.ndarray = pixels.view(np.uint32 if pixels.shape[1] % 2 else np.uint64)
    ids = np.einsum("np,p->n", words, _powers(words.shape[1]), dtype=np.uint64)  # a polynomial of the pixels, mod 2^64
    return np.asarray((_mix(ids) >> np.uint64(11)) * 2.0**-53)
