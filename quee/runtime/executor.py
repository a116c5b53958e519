"""The adaptive executor: after every gate, samples regroup by their next step, whatever path they came by.

One table holds the facts of all samples. States travel between segments, together with the rows of the table that they
belong to. Python's loops run over groups, never over samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quee.ensembles import Ensembles, as_cached
from quee.policies.base import EXIT, Limit, Router
from quee.runtime.engines.base import Engine
from quee.work.bits import splitmix64

BATCH = 256
"""Samples that start together; more would only take more memory."""


class Samples:
    """A table with one row, a slot, per sample."""

    def __init__(self, slots: int, segments: int, features: int, classes: int = 0) -> None:
        """`classes` are those of ensembles; 0 where every exit answers with its own head."""
        self.trade_off = np.zeros(slots)
        self.max_cost: np.ndarray | None = None
        """Infinite where there is no limit; None until any sample has one."""
        self.node = np.empty(slots, np.int64)
        """Node of each sample; -1 before segment 1."""
        self.features = np.empty((slots, segments * features), np.float32)
        """State features of the gates visited, side by side."""
        self.log_probs = np.empty((slots, segments, classes), np.float16)
        """Log-probabilities of the heads visited, as the feature cache keeps them."""
        self.error = np.empty((slots, segments - 1), np.float32)
        """Predicted error of leaving at each gate visited; NaN elsewhere."""

    def admit(self, slots: np.ndarray | slice, trade_off: np.ndarray, max_cost: float | None = None) -> None:
        """Put new samples in slots, before segment 1."""
        self.trade_off[slots], self.node[slots], self.error[slots] = trade_off, -1, np.nan
        if max_cost is None and self.max_cost is None:
            return
        limits = np.full(len(self.node), np.inf) if self.max_cost is None else self.max_cost
        limits[slots] = np.inf if max_cost is None else max_cost
        self.max_cost = limits  # last, because other threads may be reading


@dataclass(slots=True)
class Flight:
    """States of n samples before the same segment."""

    slots: np.ndarray
    """(n,)"""
    state: np.ndarray
    """(n, c, h, w) prepared images, or states (n, …); float32."""

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
        """The samples that go on, by their next step (n,). Each group is copied once; a group of all samples is not copied."""
        for step in sorted(set(steps.tolist()) - {EXIT}):
            rows = (steps == step).nonzero()[0]
            yield step, self if len(rows) == len(self) else self.take(rows)


Seen = Callable[[int, np.ndarray, np.ndarray], None]
"""Called with samples at a gate: the gate, their slots (n,), the answers' log probabilities (n, classes)."""


class Executor:
    """Runs flights on an engine as a policy decides. Safe to call from several threads, each with its own samples."""

    def __init__(
        self,
        engine: Engine,
        policy: Router,
        features: int,
        ensembles: Ensembles | None = None,
        batch: int = BATCH,
    ) -> None:
        """`features` is the number of state features of a gate.

        Without `ensembles`, every exit answers with its own head alone.
        """
        self.engine, self.policy, self.features, self.batch = engine, policy, features, batch
        self.ensembles = ensembles
        self.tree = policy.tree

    def samples(self, slots: int) -> Samples:
        classes = 0 if self.ensembles is None else self.ensembles.classes
        return Samples(slots, self.tree.segments, self.features, classes)

    def on(self, engine: Engine) -> "Executor":
        """The same on another engine."""
        return Executor(engine, self.policy, self.features, self.ensembles, self.batch)

    def advance(self, segment: int, choice: int, samples: Samples, flight: Flight) -> tuple[Flight, np.ndarray]:
        """Run a segment at a precision: the flight after it, and log probabilities (n, classes) of the answers at its gate."""
        slots = flight.slots
        ran = self.engine.run(segment, self.tree.precisions[choice], flight.state)
        samples.node[slots] = node = self.tree.children[samples.node[slots], choice]
        log_probs, features = ran.log_probs, ran.features
        if self.ensembles is not None:
            samples.log_probs[slots, segment - 1] = as_cached(log_probs)
            log_probs, features = self.ensembles(node, samples.log_probs[slots, :segment], features)
        if ran.state is None:
            return Flight(slots, np.empty((len(slots), 0), np.float32)), log_probs
        samples.features[slots, (segment - 1) * self.features : segment * self.features] = features
        return Flight(slots, ran.state), log_probs

    def decide(self, gate: int, samples: Samples, slots: np.ndarray) -> np.ndarray:
        """The next step (n,) of samples at a gate; EXIT at the last."""
        if gate == self.tree.segments:
            return np.full(len(slots), EXIT)
        features = samples.features.take(slots, axis=0)[:, : gate * self.features]
        step = np.empty(len(slots), np.int64)
        for part in self.policy.parts(samples.trade_off[slots]):
            rows, own = slots[part.rows], part.policy
            limit = None if samples.max_cost is None else Limit(own.costs.routed, samples.max_cost[rows])
            table = own.read(gate, samples.node[rows], features[part.rows])
            samples.error[rows, gate - 1] = own.exit_error(table)
            step[part.rows] = own.decide(table, part.knob, limit)
        return step

    def run(self, samples: Samples, flight: Flight, first: np.ndarray, ended: Seen, seen: Seen | None = None) -> None:
        """Run samples from segment 1, with first steps (n,), to their ends, gate by gate.

        `ended` is called with the samples that leave, `seen` with all samples at every gate.
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
        """Run all groups through a segment and decide once for all; returns the groups that wait for the next segment."""
        behind = [self.advance(segment, choice, samples, Flight.joined(waiting[choice])) for choice in sorted(waiting)]
        onward: dict[int, list[Flight]] = {}
        if not behind:
            return onward
        if segment == self.tree.segments:
            for flight, log_probs in behind:
                if seen is not None:
                    seen(segment, flight.slots, log_probs)
                ended(segment, flight.slots, log_probs)
            return onward
        slots = behind[0][0].slots if len(behind) == 1 else np.concatenate([flight.slots for flight, _ in behind])
        steps = self.decide(segment, samples, slots)
        at = 0
        for flight, log_probs in behind:
            own = steps[at : at + len(flight)]
            at += len(flight)
            if seen is not None:
                seen(segment, flight.slots, log_probs)
            if len(leaves := (own == EXIT).nonzero()[0]):
                ended(segment, flight.slots[leaves], log_probs[leaves])
            for step, group in flight.by_step(own):
                onward.setdefault(step, []).append(group)
        return onward


@lru_cache(maxsize=8)
def _powers(count: int) -> np.ndarray:
    return np.multiply.accumulate(np.full(count, 0x9E3779B97F4A7C15, np.uint64))


def draws(images: np.ndarray) -> np.ndarray:
    """A number (n,) in [0, 1) for each prepared image (n, …), float32, drawn from its own pixels alone."""
    pixels = np.ascontiguousarray(images, np.float32).reshape(len(images), -1)
    words: np.ndarray = pixels.view(np.uint32 if pixels.shape[1] % 2 else np.uint64)
    ids = np.einsum("np,p->n", words, _powers(words.shape[1]), dtype=np.uint64)  # a polynomial of the pixels, mod 2^64
    return np.asarray((splitmix64(ids) >> np.uint64(11)) * 2.0**-53)
