"""Choice of a gate's pooling and head, by the loss on training images that the candidates were not fitted on.

A candidate's score is its mean loss plus price × cost. Cost is in BitFLOPs. The price is what going on pays: the loss that
the next segment takes away per BitFLOP, with the plainest candidate at both gates. So a head may cost more only where it
takes away more loss than the same work in the network would. The least score wins, or the cheapest candidate whose score is
not larger beyond doubt: whose paired 95 % interval over images holds 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from quee.cost import bitflops, trace_cost
from quee.exits.classifiers import Candidate, Said, fit_floating, losses_of
from quee.exits.heads import HEAD_PRECISION, head_products
from quee.exits.states import States
from quee.intervals import NORMAL, half_width
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.network.pooling import Part
from quee.precision import Precision
from quee.settings.exits import Exits
from quee.work.threads import in_threads

DROPOUT, OTHER_DROPOUTS = 0.5, (0.25, 0.0)
"""Tried with every pooling, and with the best pooling alone."""
WIDEST_LINEAR = 1024
"""A linear layer on more inputs is not tried: its fit takes minutes, and at 2,048 inputs its loss was twice a hidden layer's."""


def poolings(model: SegmentedBackbone, gate: int, settings: Exits, rows: int, columns: int) -> list[str]:
    """Poolings to try at a gate whose state has so many rows and columns of positions; the plainest first."""
    if settings.pooling != "auto":
        return [settings.pooling]

    def fits(part: Part) -> bool:
        return part.rows <= rows and part.columns <= columns

    return [name for name in model.poolings if all(map(fits, model.pooling_parts(name)))]


@dataclass
class Tried:
    """A candidate at a gate, and what it does on held-out images."""

    candidate: Candidate
    bitflops: float
    sizes: tuple[int, ...]
    losses: np.ndarray
    """(held-out states,) in nats."""
    accuracy: float
    score: np.ndarray | None = None
    """(held-out images,) loss + price × cost."""


@dataclass
class Choice:
    """The head chosen at a gate, and why."""

    candidate: Candidate
    each: bool
    """Whether every precision of the segment before the gate gets a classifier of its own."""
    reason: str
    rows: list[dict[str, object]]
    """The candidates, as rows of a table."""


class Chooser:
    """Tries candidates at the gates before the last. Images, not states, are divided into fitted and held-out ones."""

    def __init__(
        self,
        backbone: MultiPrecisionBackbone,
        precisions: Sequence[Precision],
        states: States,
        passes: int,
        settings: Exits,
    ) -> None:
        self.states, self.passes, self.settings, self.classes = states, passes, settings, backbone.classes
        self.precisions = precisions
        self.model = backbone.first
        images = np.unique(states.image)
        order = np.random.default_rng([settings.seed, 1]).permutation(images)
        held = np.isin(states.image, order[: max(1, len(order) // 4)])
        self.fitted, self.held = np.flatnonzero(~held), np.flatnonzero(held)
        self.images, self.final_losses = states.image[self.held], states.final_loss[self.held]
        cost = trace_cost(backbone.models[Precision("fp32")])
        self.unit = cost.unit
        final = backbone.segments
        self.segments = {
            gate: float(
                np.mean([cost.bitflops(gate, p) + (cost.bitflops(0, p) if gate == final else 0) for p in precisions])
            )
            for gate in range(2, final + 1)
        }
        """BitFLOPs of the segment before each gate, over the precisions."""

    def try_all(self, gate: int, shape: tuple[int, int], said: Said) -> list[Tried]:
        """Every pooling with a linear layer and with a hidden one; the plainest candidate first."""
        candidates = []
        for pooling in poolings(self.model, gate, self.settings, *shape):
            if self.settings.head != "hidden" and (
                self.model.pooled_width(gate, pooling) <= WIDEST_LINEAR or self.settings.head == "linear"
            ):
                candidates.append(Candidate(pooling))
            if self.settings.head != "linear":
                candidates.append(Candidate(pooling, self.settings.hidden, DROPOUT))
        return self._try_each(gate, candidates, said)

    def choose(self, gate: int, tried: list[Tried], below: float, said: Said) -> Choice:
        """The choice at a gate; `below` is the mean loss of the plainest candidate at the next gate."""
        own = float(tried[0].losses.mean())
        price = max(0.0, own - below) / self.segments[gate + 1]
        for one in tried:
            self._score(one, price)
        if hidden := [one for one in tried if one.candidate.hidden]:
            best = min(hidden, key=_mean).candidate
            others = self._try_each(gate, [replace(best, dropout=dropout) for dropout in OTHER_DROPOUTS], said)
            for one in others:
                self._score(one, price)
            tried += others
        best_one = min(tried, key=_mean)
        within = {id(one): _interval(one.score - best_one.score) for one in tried}  # type: ignore[operator]
        chosen = min((one for one in tried if within[id(one)][1] <= 0), key=lambda one: (one.bitflops, _mean(one)))
        reason = "least loss and cost"
        if len(tried) == 1:
            reason = "the only candidate"
        elif chosen is not best_one:
            reason = f"cheapest of those not worse beyond doubt than {best_one.candidate}"
        each, compared = self._compare_each(gate, chosen, said)
        rows = [
            {
                "gate": gate, "pooling": one.candidate.pooling, "hidden": one.candidate.hidden,
                "dropout": one.candidate.dropout, "each_precision": False, "inputs": one.sizes[0],
                "cost": one.bitflops / self.unit, "loss": float(one.losses.mean()), "accuracy": one.accuracy,
                "score": _mean(one), "difference": within[id(one)][0], "low": within[id(one)][1],
                "high": within[id(one)][2], "chosen": one is chosen and not each,
            }
            for one in tried
        ]  # fmt: skip
        if compared is not None:
            mean, low, high, loss, accuracy = compared
            score = _mean(chosen) + mean
            rows.append(
                next(row for row, one in zip(rows, tried, strict=True) if one is chosen)
                | {"each_precision": True, "loss": loss, "accuracy": accuracy, "score": score, "difference": mean,
                   "low": low, "high": high, "chosen": each}
            )  # fmt: skip
            if each:
                reason += "; one head for each precision is better beyond doubt"
        return Choice(chosen.candidate, each, reason, rows)

    def _fit(
        self, gate: int, candidate: Candidate, rows: np.ndarray, held: np.ndarray, said: Said
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses and hits on the held rows after a fit on rows."""
        x, y = self.states.inputs(gate, self.model.pooling_parts(candidate.pooling)), self.states.labels
        layers, _ = fit_floating(x[rows], y[rows], self.classes, candidate, self.settings, self.passes, said)
        return losses_of(layers, x[held], y[held])

    def _try_each(self, gate: int, candidates: Sequence[Candidate], said: Said) -> list[Tried]:
        """Each on a core of its own; every fit has its own random numbers and one thread."""
        return list(in_threads(lambda candidate: self._try(gate, candidate, said), candidates))

    def _try(self, gate: int, candidate: Candidate, said: Said) -> Tried:
        widths = (
            self.model.pooled_width(gate, candidate.pooling),
            *([candidate.hidden] if candidate.hidden else []),
            self.classes,
        )
        work = sum(bitflops(p.macs, p.bits(HEAD_PRECISION)) for p in head_products(gate, widths))
        losses, right = self._fit(gate, candidate, self.fitted, self.held, said)
        return Tried(candidate, work, widths, losses, float(right.mean()))

    def _score(self, one: Tried, price: float) -> None:
        one.score = _by_image(one.losses, self.images) + price * one.bitflops

    def _compare_each(
        self, gate: int, chosen: Tried, said: Said
    ) -> tuple[bool, tuple[float, float, float, float, float] | None]:
        """Whether heads that serve one precision each are better beyond doubt than the chosen one that serves all, and
        (difference in loss with its interval, loss, accuracy); None where there are too few states to compare."""
        last, number = self.states.last[:, gate - 1], len(self.precisions)
        losses, right = np.empty(len(self.held)), np.empty(len(self.held))
        if number == 1 or np.bincount(last[self.fitted], minlength=number).min() < self.classes:
            return False, None
        served = [index for index in range(number) if (last[self.held] == index).any()]

        def fit(index: int) -> tuple[np.ndarray, np.ndarray]:
            rows, held = (part[last[part] == index] for part in (self.fitted, self.held))
            return self._fit(gate, chosen.candidate, rows, held, said)

        for index, own in zip(served, in_threads(fit, served), strict=True):
            held = last[self.held] == index
            losses[held], right[held] = own
        mean, low, high = _interval(_by_image(losses - chosen.losses, self.images))
        return high < 0, (mean, low, high, float(losses.mean()), float(right.mean()))


def _mean(one: Tried) -> float:
    assert one.score is not None
    return float(one.score.mean())


def _by_image(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Means of values (states,) by image."""
    _, place = np.unique(images, return_inverse=True)
    found: np.ndarray = np.bincount(place, values) / np.bincount(place)
    return found


def _interval(difference: np.ndarray) -> tuple[float, float, float]:
    """The mean of differences (images,), and the 95 % interval around it."""
    mean = float(difference.mean())
    half = half_width(difference, NORMAL)
    return mean, mean - half, mean + half
