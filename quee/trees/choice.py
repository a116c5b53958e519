"""Choice of a tree's precisions, by estimates of the curve that they give together.

Every candidate, a precision with or without bits by layer, was run uniformly through the network with a probe at every
gate (`quee.trees.candidates`). Its curve is that of early exits by one threshold on the largest probability; the curve
of a set is the upper hull of its members' points, which a tree of them can reach by choosing the first precision. `auc`
is the mean accuracy over log-uniform budgets, below the cheapest point mixed with the most frequent class. Hulls are
cross-fitted: the mixture of points that a sample is judged by was chosen without it, so a set does not gain by chance
from having more points.

The area alone prefers cheap precisions, whose whole network can be a point worse than float. So one member must *reach*: its
whole network must lose little to that of the dearest candidate, which stands for the float network. On Street Characters
the set of the largest area, w2a3, w2a4 and w3a4, got within half a point of the float network at no budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from quee.hull import hull
from quee.intervals import NORMAL, half_width

LOWEST = 1 / 32
"""Least budget, half of the least of `auc` on results: where a set of precisions has all that 1/16 can buy, as on digits,
cheaper exits decide. On ResNet-20 the order of sets is the same from 1/16, 1/32 and 1/64 on."""
BUDGETS, THRESHOLDS = 120, 48
FOLDS, REPEATS = 5, 3
"""Folds of cross-fitting, and divisions into folds over which errors are averaged."""
REACH, DOUBT = 0.005, 1.0
"""Accuracy that a member that reaches loses at most, the loss counted with so many standard errors."""
SHOWN = 8
"""Sets that the record keeps beside the best of each size."""


@dataclass(frozen=True)
class Exits:
    """Exits of one candidate at every gate, on the samples that it is judged by; S samples, L gates."""

    confidence: np.ndarray
    """(S, L) largest probability."""
    wrong: np.ndarray
    """(S, L) bool; the last column is the network's own head."""
    cost: np.ndarray
    """(L,) cost of a path that ends at each gate, with the heads visited."""


@dataclass(frozen=True)
class Points:
    """Operating points of a candidate, T of them, the free floor the first."""

    cost: np.ndarray
    """(T,) mean cost."""
    errors: np.ndarray
    """(S, T) bool."""


def points_of(exits: Exits, floor: np.ndarray) -> Points:
    """Early exits by thresholds, and the floor: `floor` (S,) says where the most frequent class is wrong."""
    seen = exits.confidence[:, :-1]
    spread = np.quantile(seen, np.linspace(0, 1, THRESHOLDS - 1)) if seen.size else np.zeros(0)
    thresholds = np.append(spread, np.inf)
    sure = exits.confidence[:, :, None] >= thresholds  # (S, L, T)
    sure[:, -1] = True
    gate = sure.argmax(axis=1)
    errors = np.take_along_axis(exits.wrong, gate, axis=1)
    cost = exits.cost[gate].mean(axis=0)
    return Points(np.append(0.0, cost), np.column_stack([floor, errors]))


class Sets:
    """Sets of candidates, judged on the same samples."""

    def __init__(self, exits: Mapping[str, Exits], floor: np.ndarray, seed: int, lowest: float = LOWEST) -> None:
        """`floor` (S,) says where the most frequent class is wrong; `lowest` is the least budget."""
        self.points = {name: points_of(each, floor) for name, each in exits.items()}
        samples = len(floor)
        drawn = (np.random.default_rng([seed, 7, number]).permutation(samples) for number in range(REPEATS))
        self.folds = [order % min(FOLDS, samples) for order in drawn]
        self.budgets = np.geomspace(lowest, 1.0, BUDGETS)

    def errors(self, names: Sequence[str]) -> np.ndarray:
        """(S,) error of every sample, mean over budgets, by hulls that were chosen without its fold; 1 - mean is `auc`."""
        parts = [self.points[name] for name in names]
        cost = np.concatenate([part.cost for part in parts])
        errors = np.concatenate([part.errors for part in parts], axis=1).astype(np.float32)
        total, found = errors.sum(axis=0, dtype=np.float64), np.zeros(len(errors))
        for folds in self.folds:
            for fold in range(int(folds.max()) + 1):
                here = folds == fold
                others = max(1, int((~here).sum()))
                accuracy = 1 - (total - errors[here].sum(axis=0, dtype=np.float64)) / others
                found[here] += errors[here] @ self._mixture(cost, accuracy) / len(self.folds)
        return found

    def _mixture(self, cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
        """Weights (T,) of points, mean over budgets, that mix neighbours on the hull to spend each budget."""
        kept = hull(cost, accuracy)
        weights = np.zeros(len(cost))
        weights[kept] = [np.interp(self.budgets, cost[kept], unit).mean() for unit in np.eye(len(kept))]
        return weights

    def cost(self, name: str) -> float:
        """Cost of a candidate's whole network."""
        return float(self.points[name].cost[-1])

    def reaching(self, names: Sequence[str]) -> list[str]:
        """The candidates whose whole network loses at most `REACH` to that of the dearest; the dearest is one of them."""
        best = max(names, key=self.cost)
        found = []
        for name in sorted(names, key=self.cost):
            loss = self.points[name].errors[:, -1].astype(float) - self.points[best].errors[:, -1]
            if name == best or loss.mean() + half_width(loss, DOUBT) <= REACH:
                found.append(name)
        return found

    def spread(self, names: Sequence[str]) -> tuple[float, float]:
        """How far neighbours in cost are apart at least, as a ratio, and the negative cost of the dearest."""
        costs = sorted(map(self.cost, names))
        return min((b / a for a, b in pairwise(costs)), default=1.0), -costs[-1]


def difference(better: np.ndarray, worse: np.ndarray) -> dict[str, float]:
    """Mean accuracy gained by errors (S,) over other errors of the same samples, and its 95 % interval."""
    gain = worse - better
    width = min(half_width(gain, NORMAL), 1.0)  # a single sample tells nothing
    mean = float(gain.mean())
    return {"high": mean + width, "low": mean - width, "mean": mean}


def prefer_by_layer(sets: Sets, by_layer: str, uniform: str) -> tuple[bool, dict[str, float]]:
    """Whether bits by layer are kept, unless uniform bits are better beyond doubt; and the difference."""
    found = difference(sets.errors([by_layer]), sets.errors([uniform]))
    return found["high"] >= 0, found


def choose(sets: Sets, names: Sequence[str], most: int) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The best set of so many of the candidates `names`, by cost, and the record of what it was chosen from.

    A member of it reaches, unless it has one member alone. Of sets with equal estimates, the one whose members are farthest
    apart in cost is taken.
    """
    reaching, rows = sets.reaching(names), []
    for size in range(1, min(most, len(names)) + 1):
        for members in combinations(sorted(names, key=sets.cost), size):
            errors = sets.errors(members)
            rows.append((round(1 - float(errors.mean()), 9), sets.spread(members), members))
    largest = max(len(members) for _, _, members in rows)
    every = sorted((row for row in rows if len(row[2]) == largest), key=lambda row: (-row[0], *(-x for x in row[1])))
    whole = [row for row in every if largest == 1 or set(row[2]) & set(reaching)]
    best = whole[0][2]
    smaller = [max((row for row in rows if len(row[2]) == size), key=lambda row: row[:2]) for size in range(1, largest)]
    shown = [*smaller, *whole[:SHOWN]]
    record = {
        "budgets": [LOWEST, 1.0],
        "reach": {"limit": REACH, "members": reaching},
        "sets": [{"auc": auc, "members": list(members)} for auc, _, members in shown],
        "tried": len(rows),
    }
    if every[0][2] != best:
        record["without_reach"] = {
            "auc": every[0][0], "gain": difference(sets.errors(every[0][2]), sets.errors(best)), "members": list(every[0][2])
        }  # fmt: skip
    if len(whole) > 1:
        record["over_next"] = difference(sets.errors(best), sets.errors(whole[1][2]))
    return best, record
