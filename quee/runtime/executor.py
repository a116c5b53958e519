"""The adaptive executor: after every gate samples regroup by what they do next, whatever their past.

Arrays hold samples side by side; Python's loops run over groups, never over samples.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from quee.data.transforms import draws as spread
from quee.policies import EXIT
from quee.runtime.engines.base import Engine
from quee.runtime.router import Router

BATCH = 256
"""Samples that start together; more only take more memory."""
DRAW_SEED = (0,)


@dataclass
class Flight:
    """n samples on their way, with what they do next."""

    state: np.ndarray
    """(n, c, h, w) prepared images, or (n, tokens, dim) at a gate; float32."""
    node: np.ndarray
    """(n,) where they stand; -1 before segment 1."""
    step: np.ndarray
    """(n,) index of the next segment's precision, or EXIT."""
    trade_off: np.ndarray
    """(n,)"""
    max_cost: np.ndarray
    """(n,), infinite where there is no limit."""
    features: np.ndarray
    """(n, segments, F) of the gates visited."""
    error: np.ndarray
    """(n, segments - 1) predicted error of leaving at each gate visited; NaN elsewhere."""
    owner: np.ndarray
    """(n,) number of the request they belong to."""
    row: np.ndarray
    """(n,) which of its samples they are."""

    def __len__(self) -> int:
        return len(self.node)

    def take(self, rows: np.ndarray | slice) -> "Flight":
        return Flight(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence["Flight"]) -> "Flight":
        if len(parts) == 1:
            return parts[0]
        return Flight(*(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Flight)))

    def by_step(self) -> Iterator[tuple[int, "Flight"]]:
        """The samples by their next step, each group copied once and not at all where there is only one."""
        steps = np.unique(self.step)
        if len(steps) == 1:
            yield int(steps[0]), self
            return
        for step in steps:
            yield int(step), self.take(np.flatnonzero(self.step == step))


Seen = Callable[[int, Flight, np.ndarray], None]
"""Told at every gate: the gate, the samples there, their log probabilities (n, classes)."""


class Executor:
    """Runs flights on an engine as a router decides. Safe to call from several threads."""

    def __init__(self, engine: Engine, router: Router, features: int, batch: int = BATCH) -> None:
        """`features` is how many state features a gate sees."""
        self.engine, self.router, self.features, self.batch = engine, router, features, batch
        self.tree = router.tree

    def launch(
        self, images: np.ndarray, first: np.ndarray, trade_off: np.ndarray, max_cost: np.ndarray, owner: int = 0
    ) -> Flight:
        """Samples before segment 1: prepared images (n, c, h, w), the rest (n,)."""
        n, segments = len(images), self.tree.segments
        return Flight(
            images,
            np.full(n, -1),
            first.astype(np.int64),
            trade_off,
            max_cost,
            np.zeros((n, segments, self.features), np.float32),
            np.full((n, segments - 1), np.nan, np.float32),
            np.full(n, owner),
            np.arange(n),
        )

    def advance(self, segment: int, choice: int, group: Flight) -> tuple[Flight, np.ndarray]:
        """Run a segment on samples whose next step it is: where they stand then, and log probabilities (n, classes)."""
        ran = self.engine.run(segment, self.tree.precisions[choice], group.state)
        node = self.tree.children[group.node, choice]
        features, error = group.features.copy(), group.error.copy()
        features[:, segment - 1] = ran.features
        step = np.full(len(group), EXIT)
        if segment < self.tree.segments:
            step, error[:, segment - 1] = self.router.decide(segment, node, features, group.trade_off, group.max_cost)
        state = np.empty((len(group), 0), np.float32) if ran.state is None else ran.state
        after = Flight(state, node, step, group.trade_off, group.max_cost, features, error, group.owner, group.row)
        return after, ran.log_probs

    def run(self, flight: Flight, ended: Seen, seen: Seen | None = None) -> None:
        """Run samples to their ends, all of them gate by gate; `ended` is told of those that leave."""
        for start in range(0, len(flight), self.batch):
            waiting: dict[int, list[Flight]] = defaultdict(list)
            for step, group in flight.take(slice(start, start + self.batch)).by_step():
                waiting[step].append(group)
            for segment in range(1, self.tree.segments + 1):
                standing, waiting = waiting, defaultdict(list)
                for choice in sorted(standing):
                    after, log_probs = self.advance(segment, choice, Flight.joined(standing.pop(choice)))
                    if seen is not None:
                        seen(segment, after, log_probs)
                    leaves = np.flatnonzero(after.step == EXIT)
                    if len(leaves):
                        ended(segment, after.take(leaves), log_probs[leaves])
                    if len(leaves) < len(after):
                        for step, group in after.take(np.flatnonzero(after.step != EXIT)).by_step():
                            waiting[step].append(group)


def draws(images: np.ndarray) -> np.ndarray:
    """A number (n,) in [0, 1) for each prepared image (n, …), float32, by its own pixels alone."""
    words = np.ascontiguousarray(images, np.float32).reshape(len(images), -1).view(np.uint32)
    powers = np.multiply.accumulate(np.full(words.shape[1], 0x9E3779B97F4A7C15, np.uint64))
    ids = np.einsum("np,p->n", words, powers, dtype=np.uint64)  # a polynomial of the pixels, modulo 2^64
    return spread(DRAW_SEED, ids, 1)[:, 0]
