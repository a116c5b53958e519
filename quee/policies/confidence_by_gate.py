"""`confidence_by_gate`: exits by confidence with a threshold of its own at every gate.

At each price of a unit of cost, the sequence of precisions and the common threshold with least error + price · cost on
validation are taken. The gates' thresholds are then moved one after the other to where that sum is least, until none
moves. So many thresholds fitted to few samples follow their noise; therefore they are shrunk toward the common one, as
ranks among the validation scores of their gate:

    rank = common + share · (moved - common)

One share holds for all points: the one whose sums of error and cost are least on samples that the thresholds were not
fitted to, and the smallest of equals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quee.groups import folds_of
from quee.policies.confidence import Confidence
from quee.policies.sweep import Setting
from quee.policies.thresholds import Arrays, first_exit, joined, lineage_of, points_of, sequences

PRICES = np.geomspace(0.003, 30.0, 30)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FOLDS = 3
ROUNDS = 5
"""Most times that the threshold of every gate is moved."""
TRIED = 24
"""Thresholds that are tried at a gate, beside the one that no sample reaches."""
RANKS = np.append(np.linspace(0, 1, TRIED), 1 + 1 / TRIED)
"""The thresholds tried, as ranks among the scores of a gate; above 1 no sample reaches them."""


@dataclass(frozen=True)
class Way:
    """Validation samples n along one sequence of precisions through L gates."""

    sequence: tuple[int, ...]
    score: np.ndarray
    """(n, L - 1)"""
    error: np.ndarray
    """(n, L)"""
    cost: np.ndarray
    """(L,) of an exit at each gate."""

    def select(self, rows: np.ndarray) -> "Way":
        return Way(self.sequence, self.score[rows], self.error[rows], self.cost)

    @cached_property
    def sorted(self) -> np.ndarray:
        """(n, L - 1) the scores of each gate, rising."""
        return np.sort(self.score, axis=0)

    def threshold(self, rank: np.ndarray) -> np.ndarray:
        """Thresholds (…, L - 1) at ranks among the scores of their gates."""
        return _at(self.sorted, rank)

    def loss(self, threshold: np.ndarray, price: float) -> float:
        """Sum over the samples of error + price · cost."""
        at = _exits(self.score, threshold)
        return float((self.error[np.arange(len(at)), at] + price * self.cost[at]).sum())

    @cached_property
    def sure(self) -> list[np.ndarray]:
        """By gate, (n, T) whether a sample reaches each of the thresholds tried."""
        tried = self.threshold(np.repeat(RANKS[:, None], self.score.shape[1], axis=1))
        return [own[:, None] >= tried[:, gate] for gate, own in enumerate(self.score.T)]

    def common(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Common thresholds (T,), each with its mean error and mean cost."""
        tried = _at(np.sort(self.score, axis=None)[:, None], RANKS[:, None])[:, 0]
        samples, gates, count = *self.error.shape, len(tried)
        # A sample exits at a gate under the thresholds that it reaches there and has not reached before.
        reached = np.zeros((samples, gates + 1), np.int64)
        reached[:, 1:-1] = np.searchsorted(tried, np.maximum.accumulate(self.score, axis=1), side="right")
        reached[:, -1] = count
        bins = reached + (count + 1) * np.arange(gates + 1)

        def at(weights: np.ndarray | None) -> np.ndarray:
            """(L, T) sums over the samples that exit at each gate."""
            size = gates * (count + 1)
            begin = np.bincount(bins[:, :-1].ravel(), weights, size)
            end = np.bincount((bins[:, 1:] - count - 1).ravel(), weights, size)
            found: np.ndarray = (begin - end).reshape(gates, -1).cumsum(axis=1)[:, :-1]
            return found

        return tried, at(self.error.ravel()).sum(axis=0) / samples, self.cost @ at(None) / samples

    def rank(self, threshold: float) -> np.ndarray:
        """(L - 1,) ranks of a common threshold."""
        if np.isinf(threshold):
            return np.full(self.score.shape[1], RANKS[-1])
        below = (self.score < threshold).sum(axis=0)
        return np.where(below == len(self.score), RANKS[-1], below / max(1, len(self.score) - 1))

    def moved(self, rank: np.ndarray, price: float) -> np.ndarray:
        """Ranks (L - 1,) found from `rank` by moving one gate's threshold at a time to the best of those tried."""
        paid, rank = self.error + price * self.cost, rank.copy()
        leaves = self.score >= self.threshold(rank)
        for _ in range(ROUNDS):
            still = True
            for gate in range(len(rank)):
                here = ~leaves[:, :gate].any(axis=1)
                behind = _later(leaves[here], paid[here], gate)
                gain = (paid[here, gate] - behind) @ self.sure[gate][here]  # (T,)
                best = int(gain.argmin())
                if gain[best] < (paid[here, gate] - behind) @ leaves[here, gate] - 1e-9:
                    rank[gate], leaves[:, gate], still = RANKS[best], self.sure[gate][:, best], False
            if still:
                break
        return rank


def _at(rising: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Values (…, G) at ranks among rising columns (n, G), interpolated between two of them; infinite above rank 1."""
    place = np.minimum(rank, 1.0) * (len(rising) - 1)
    low, column = place.astype(np.int64), np.arange(rising.shape[1])
    below, above = rising[low, column], rising[np.minimum(low + 1, len(rising) - 1), column]
    return np.where(rank > 1, np.inf, below + (place - low) * (above - below))


def _exits(score: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """(n,) index of the first gate whose score (n, L - 1) reaches its threshold (L - 1,), else the last."""
    return first_exit(score >= threshold)


def _later(leaves: np.ndarray, paid: np.ndarray, gate: int) -> np.ndarray:
    """What is paid (n,) by samples that do not leave at a gate (an index); `leaves` (n, L - 1), `paid` (n, L)."""
    later = first_exit(leaves[:, gate + 1 :])
    found: np.ndarray = paid[np.arange(len(paid)), gate + 1 + later]
    return found


@dataclass(frozen=True)
class Found:
    """The best way at a price, with ranks (L - 1,) of its common and of its moved thresholds."""

    way: int
    price: float
    common: np.ndarray
    moved: np.ndarray

    def shrunk(self, share: float) -> np.ndarray:
        return self.common + share * (self.moved - self.common)


def searched(ways: Sequence[Way]) -> Iterator[Found]:
    """The best way and its thresholds, price by price."""
    known = [way.common() for way in ways]
    for price in PRICES:
        best = [(error + price * cost).min() for _, error, cost in known]
        index = int(np.argmin(best))
        tried, error, cost = known[index]
        common = ways[index].rank(float(tried[(error + price * cost).argmin()]))
        yield Found(index, float(price), common, ways[index].moved(common, price))


def chosen_share(ways: Sequence[Way], fold: np.ndarray) -> float:
    """The share whose thresholds lose least on the folds (n,) that they were not fitted to."""
    total = np.zeros(len(SHARES))
    for held in np.unique(fold) if len(np.unique(fold)) > 1 else ():
        kept, own = ([way.select(fold != held) for way in ways], [way.select(fold == held) for way in ways])
        for found in searched(kept):
            for index, share in enumerate(SHARES):
                threshold = kept[found.way].threshold(found.shrunk(share))
                total[index] += own[found.way].loss(threshold, found.price)
    return SHARES[int(np.round(total, 9).argmin())]


class ConfidenceByGate(Confidence):
    """A range of prices, each along the sequence of precisions that is best at it."""

    @classmethod
    def points(cls, setting: Setting) -> Arrays:
        cache, tree = setting.caches["validation"], setting.tree
        bare = cls.without_points(setting)
        score, error, cost = bare.score(cache.features), setting.errors("validation").astype(float), bare.costs.routed
        nodes = [(sequence, lineage_of(tree, sequence)) for sequence in sequences(tree)]
        ways = [Way(sequence, score[:, own[:-1]], error[:, own], cost[own]) for sequence, own in nodes]
        if tree.segments == 1:
            return joined(points_of(way.sequence, np.zeros((1, 0)), np.array([np.inf])) for way in ways)
        share = chosen_share(ways, folds_of(len(cache), cache.group, FOLDS, setting.seed))
        parts = []
        for found in searched(ways):
            threshold = ways[found.way].threshold(found.shrunk(share))
            parts.append(points_of(ways[found.way].sequence, threshold[None], threshold[:1]))
        return joined(parts)
