"""The adaptive executor: after every gate, samples regroup by their next step, whatever path they came by.

One table holds the facts of all samples. States travel between segments, together with the rows of the table that they
belong to. Python's loops run over groups, never over samples.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from quee.ensembles import Ensembles, as_cached
from quee.policies.base import EXIT, OPEN, Limit, Part, Policy, Router
from quee.runtime.engines.base import Engine, Step
from quee.work.bits import splitmix64

BATCH = 256
"""Samples that start together; more would only take more memory."""


REMEMBERED = 256
"""Number of knobs whose policies are remembered."""


class Samples:
    """A table with one row, a slot, per sample."""

    def __init__(self, slots: int, segments: int, features: int, classes: int = 0, carried: int = 0) -> None:
        """`classes` are those of ensembles, 0 where every exit answers with its own head; `carried` is `Policy.carries`."""
        self.trade_off = np.zeros(slots)
        self.max_cost: np.ndarray | None = None
        """Infinite where there is no limit; None until any sample has one."""
        self.node = np.empty(slots, np.int64)
        """Node of each sample; -1 before segment 1."""
        self.features = np.empty((slots, segments * features), np.float32)
        """State features of the gates visited, side by side."""
        self.log_probs = np.empty((slots, segments, classes), np.float16)
        """Log-probabilities of the heads visited, as the feature cache keeps them."""
        self.carried = np.zeros((slots, segments, carried))
        """Numbers that the policy carries from the gates visited."""
        self.error = np.empty((slots, segments - 1), np.float32)
        """Predicted error of leaving at each gate that decides by the state; NaN elsewhere."""

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
        known = set(steps.tolist())
        if len(known) == 1:
            if EXIT not in known:
                yield known.pop(), self
            return
        for step in sorted(known - {EXIT}):
            yield step, self.take((steps == step).nonzero()[0])


@dataclass(slots=True)
class Passed:
    """Samples that ran a segment and stand at its gate."""

    flight: Flight
    """Their states; without values after the last segment."""
    log_probs: np.ndarray | None
    """(n, classes) of the answers; None where nobody sees them."""
    settled: np.ndarray | None
    """(n,) steps that are taken whatever the state is, and OPEN where it matters; None where it matters for all."""


def rows_at(slots: np.ndarray) -> np.ndarray | slice:
    """An index of slots (n,); for one slot a slice, with which NumPy reads and writes several times as fast."""
    return slice(int(slots[0]), int(slots[0]) + 1) if len(slots) == 1 else slots


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
        self.carried = max(own.carries for own in policy.policies().values())
        self._alone = lru_cache(maxsize=REMEMBERED)(lambda knob: list(policy.parts(np.array([knob]))))

    @cached_property
    def kept(self) -> int:
        """Classes whose log-probabilities are kept from the heads visited; 0 where no answer is made of them."""
        if self.ensembles is not None:
            return self.ensembles.classes
        return max(own.classes for own in self.policy.policies().values())

    def samples(self, slots: int) -> Samples:
        return Samples(slots, self.tree.segments, self.features, self.kept, self.carried)

    def on(self, engine: Engine) -> "Executor":
        """The same on another engine."""
        return Executor(engine, self.policy, self.features, self.ensembles, self.batch)

    def advance(self, segment: int, choice: int, samples: Samples, flight: Flight, whole: bool = False) -> Passed:
        """Run a segment at a precision, up to the decision at its gate.

        Unless `whole`, the answers of samples that are settled to go on are not computed, because nobody sees them.
        """
        rows = rows_at(flight.slots)
        ran = self.engine.run(segment, self.tree.precisions[choice], flight.state)
        samples.node[rows] = node = self.tree.children[samples.node[rows], choice]
        if samples.log_probs.shape[2]:
            samples.log_probs[rows, segment - 1] = as_cached(ran.log_probs)
        if self.carried:
            return self._carried(segment, samples, flight.slots, node, ran)
        if self.ensembles is not None:
            ran = self._mixed(ran, node, samples.log_probs[rows, :segment])
        if ran.state is None:
            return self._ended(flight.slots, ran.log_probs)
        after, settled = Flight(flight.slots, ran.state), self._settled(segment, samples, flight.slots)
        least = OPEN if settled is None else int(settled.min())
        if least == OPEN:
            log_probs, features = ran.seen(self._read(samples, rows))
            samples.features[rows, (segment - 1) * self.features : segment * self.features] = features
            return Passed(after, log_probs, settled)
        return Passed(after, ran.log_probs if whole or least == EXIT else None, settled)

    @staticmethod
    def _ended(slots: np.ndarray, log_probs: np.ndarray) -> Passed:
        """Samples behind the last segment."""
        return Passed(Flight(slots, np.empty((len(slots), 0), np.float32)), log_probs, np.full(len(slots), EXIT))

    def _carried(self, segment: int, samples: Samples, slots: np.ndarray, node: np.ndarray, ran: Step) -> Passed:
        """Samples at nodes (n,) with what their policies carry on from there, settled or not, and the policies' own answers."""
        log_probs, features = np.empty(ran.logits.shape), np.empty((len(slots), self.features), np.float32)
        for part in self._deciding(samples.trade_off[slots]):
            own, at, rows = part.policy, node[part.rows], slots[part.rows]
            heads = samples.log_probs[rows, :segment]
            given = ran.take(part.rows)
            if not own.classes:
                given = self._mixed(given, at, heads)
            log_probs[part.rows], features[part.rows] = given.seen(own.measures)
            if not own.carries:
                continue
            before = np.zeros((len(at), own.carries))
            if segment > 1:
                before = samples.carried[rows, segment - 2, : own.carries]
            samples.carried[rows, segment - 1, : own.carries], log_probs[part.rows] = carried_on(
                own, at, before, heads, log_probs[part.rows]
            )
        if ran.state is None:
            return self._ended(slots, log_probs)
        samples.features[slots, (segment - 1) * self.features : segment * self.features] = features
        return Passed(Flight(slots, ran.state), log_probs, self._settled(segment, samples, slots))

    def decide(self, gate: int, samples: Samples, slots: np.ndarray, settled: np.ndarray | None = None) -> np.ndarray:
        """The next step (n,) of samples at a gate where some are settled (n,)."""
        if settled is not None:
            step, rest = settled, (settled == OPEN).nonzero()[0]
            if len(rest):
                step[rest] = self.decide(gate, samples, slots[rest])
            return step
        step = np.empty(len(slots), np.int64)
        for part, rows, limit in self._parts(samples, slots):
            features = samples.features[rows, : gate * self.features]
            carried = samples.carried[rows, gate - 1, : part.policy.carries]
            samples.error[rows, gate - 1], step[part.rows] = _decided(
                part, gate, samples.node[rows], features, carried, limit
            )
        return step

    def _mixed(self, ran: Step, node: np.ndarray, heads: np.ndarray) -> Step:
        """A step with the answers of the ensembles at nodes (n,), if there are any, of log-probabilities (n, gate, classes)."""
        if self.ensembles is None:
            return ran
        return Step(ran.state, self.ensembles.logits(node, heads), ran.embedding)

    def single(self, x: np.ndarray, first: int, knob: float) -> tuple[int, np.ndarray, np.ndarray]:
        """One image (1, c, h, w), as `run` takes it through, without a table of samples, which would take as long as deciding.

        Returns the node where it leaves, log-probabilities (1, classes), and its predicted errors (1, gates before the last).
        """
        (part,) = self._alone(knob)
        own, width, segments = part.policy, self.features, self.tree.segments
        heads, features = np.empty((1, segments, self.kept), np.float16), np.empty((1, segments * width), np.float32)
        carried, error = np.zeros((1, own.carries)), np.full((1, segments - 1), np.nan, np.float32)
        node, step, state = -1, first, x
        for segment in range(1, segments + 1):
            ran = self.engine.run(segment, self.tree.precisions[step], state)
            node = int(self.tree.children[node, step])
            at = np.array([node])
            if self.kept:
                heads[:, segment - 1] = as_cached(ran.log_probs)
            if not own.classes:
                ran = self._mixed(ran, at, heads[:, :segment])
            last = ran.state is None
            settled = None if last else own.settled(segment, at, part.knob)
            step = EXIT if last else OPEN if settled is None else int(settled[0])
            if own.carries or step == OPEN:
                log_probs, own_features = ran.seen(own.measures)
            elif step == EXIT:
                log_probs = ran.log_probs
            if own.carries:
                carried, log_probs = carried_on(own, at, carried, heads[:, :segment], log_probs)
            if step == OPEN:
                features[:, (segment - 1) * width : segment * width] = own_features
                error[:, segment - 1], decided = _decided(part, segment, at, features[:, : segment * width], carried)
                step = int(decided[0])
            if step == EXIT:
                return node, log_probs, error
            assert ran.state is not None
            state = ran.state
        raise AssertionError("a sample leaves at the last gate")

    def _settled(self, gate: int, samples: Samples, slots: np.ndarray) -> np.ndarray | None:
        """The steps (n,) that are settled, and OPEN elsewhere; None where all are open."""
        found: np.ndarray | None = None
        for part, rows, limit in self._parts(samples, slots):
            own = part.policy.settled(gate, samples.node[rows], part.knob, limit)
            if own is not None:
                found = np.full(len(slots), OPEN) if found is None else found
                found[part.rows] = own
        return found

    def _deciding(self, knob: np.ndarray) -> Sequence[Part]:
        """The policies that decide at knobs (n,); those of a single knob are remembered, because finding them takes a while."""
        return self._alone(float(knob[0])) if len(knob) == 1 else list(self.policy.parts(knob))

    def _read(self, samples: Samples, rows: np.ndarray | slice) -> Collection[str]:
        """The measures of uncertainty that the policies of samples read."""
        parts = self._deciding(samples.trade_off[rows])
        return parts[0].policy.measures if len(parts) == 1 else {m for part in parts for m in part.policy.measures}

    def _parts(self, samples: Samples, slots: np.ndarray) -> Iterator[tuple[Part, np.ndarray | slice, Limit | None]]:
        """The policies that decide for samples, each with its rows of the table and its limits."""
        for part in self._deciding(samples.trade_off[rows_at(slots)]):
            rows = rows_at(slots[part.rows])
            limit = None if samples.max_cost is None else Limit(part.policy.costs.routed, samples.max_cost[rows])
            yield part, rows, limit

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
        passed = [
            self.advance(segment, choice, samples, Flight.joined(waiting[choice]), seen is not None)
            for choice in sorted(waiting)
        ]
        onward: dict[int, list[Flight]] = {}
        if not passed:
            return onward
        steps = self.decide(segment, samples, *_standing(passed))
        at = 0
        for flight, log_probs in ((one.flight, one.log_probs) for one in passed):
            own = steps[at : at + len(flight)]
            at += len(flight)
            if seen is not None:
                assert log_probs is not None
                seen(segment, flight.slots, log_probs)
            leaves = (own == EXIT).nonzero()[0]
            if len(leaves):
                assert log_probs is not None
                every = len(leaves) == len(flight)
                ended(segment, *((flight.slots, log_probs) if every else (flight.slots[leaves], log_probs[leaves])))
            for step, group in flight.by_step(own):
                onward.setdefault(step, []).append(group)
        return onward


def carried_on(
    own: Policy, node: np.ndarray, before: np.ndarray, heads: np.ndarray | None, log_probs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a policy carries on (n, M) from nodes (n,), and the answers (n, classes) under it.

    `heads` (n, gate, classes) are the log-probabilities of the heads visited, for policies that make answers of them.
    """
    said = heads if own.classes else log_probs.argmax(axis=1)
    assert said is not None
    carried, answers = own.carry(node, before, said)
    return carried, log_probs if answers is None else answers


def _decided(
    part: Part, gate: int, node: np.ndarray, features: np.ndarray, carried: np.ndarray, limit: Limit | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The predicted errors (n,) of leaving at a gate and the next steps (n,) of samples of one policy at nodes (n,)."""
    table = part.policy.read(gate, node, part.policy.seen(features, carried))
    return part.policy.exit_error(table), part.policy.decide(table, part.knob, limit)


def _standing(passed: Sequence[Passed]) -> tuple[np.ndarray, np.ndarray | None]:
    """Slots (n,) of all samples at a gate, and what is settled there."""
    if len(passed) == 1:
        return passed[0].flight.slots, passed[0].settled
    slots = np.concatenate([one.flight.slots for one in passed])
    if all(one.settled is None for one in passed):
        return slots, None
    known = [np.full(len(one.flight), OPEN) if one.settled is None else one.settled for one in passed]
    return slots, np.concatenate(known)


@lru_cache(maxsize=8)
def _powers(count: int) -> np.ndarray:
    return np.multiply.accumulate(np.full(count, 0x9E3779B97F4A7C15, np.uint64))


def draws(images: np.ndarray) -> np.ndarray:
    """A number (n,) in [0, 1) for each prepared image (n, …), float32, drawn from its own pixels alone."""
    pixels = np.ascontiguousarray(images, np.float32).reshape(len(images), -1)
    words: np.ndarray = pixels.view(np.uint32 if pixels.shape[1] % 2 else np.uint64)
    ids = words @ _powers(words.shape[1])  # a polynomial of the pixels, mod 2^64
    return np.asarray((splitmix64(ids) >> np.uint64(11)) * 2.0**-53)
