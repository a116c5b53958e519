"""Base of policies by a threshold: exit at the first gate whose score reaches it, along fixed precisions.

A policy of this kind defines only how sure a gate is (`score`); `quee.policies.confidence` is an example. The policy is
a list of points. Each point is a sequence of precisions with a threshold at every gate before the last, and the knob is
the number of a point. `fit` takes thresholds from the validation scores along every sequence of precisions of the tree,
and keeps the points on the convex hull of accuracy over cost.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from quee.hull import hull
from quee.paths import PathTree
from quee.policies.base import EXIT, OPEN, Basis, Costs, Limit, Policy, Table, Walks, simulate_behind, wrong
from quee.policies.sweep import Setting
from quee.policies.walks import walk, walks_of
from quee.work.lookup import looked_up

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache

POINTS = 25
"""Thresholds per sequence of precisions, before the hull."""
CHUNK = 64
"""Sequences of precisions whose quantiles are taken in one call."""
Arrays = dict[str, np.ndarray]


class Thresholds(Policy):
    """Points P on a tree of L segments; `arrays` are `threshold` (P, L - 1), `sequence` (P, L), `value` (P,).

    `value` is what a curve shows of a point.
    """

    kind = "threshold"
    priced = False
    together = 128
    sign: ClassVar[float] = 1.0
    """-1 where a curve shows the negative score."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Names of arrays that are the same for all points."""

    def __init__(self, tree: PathTree, costs: Costs, feature_names: Sequence[str], arrays: Arrays) -> None:
        """`costs` are the costs of the policy."""
        self.tree, self.costs, self.feature_names, self._arrays = tree, costs, list(feature_names), arrays
        self.threshold, self.sequence = arrays["threshold"], arrays["sequence"]
        self._infinite = [bool(np.isinf(own).any()) for own in self.threshold.T]
        self.stands = np.zeros(len(tree), bool)
        for sequence in np.unique(self.sequence, axis=0).tolist():
            self.stands[lineage_of(tree, sequence)] = True

    @abstractmethod
    def score(self, features: np.ndarray) -> np.ndarray:
        """How sure a gate is (…,), from its own state features (…, F), and what is carried there; larger is surer."""

    def column(self, features: np.ndarray, name: str) -> np.ndarray:
        """One state feature (…,), float64, from features (…, F or more)."""
        found: np.ndarray = features[..., self.feature_names.index(name)].astype(np.float64)
        return found

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        """Columns: the input of `scores`, and the error (n,) that the exit head itself expects."""
        own = view[:, -len(self.feature_names) - self.carries :]
        return Table(gate, node, (self.score(own), 1 - self.column(own, "max_probability")))

    def scores(self, table: Table, point: np.ndarray) -> np.ndarray:
        """Scores (n,) at points (n,)."""
        return table.columns[0]

    def exit_error(self, table: Table) -> np.ndarray:
        return table.columns[1]

    def values(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """For an exit, the threshold minus the score; 0 for the sequence's next precision."""
        step, allowed = self._onward(table.gate, table.node, knob.astype(np.int64), limit)
        rows = np.arange(len(table))
        found = np.full((len(table), 1 + len(self.tree.precisions)), np.inf)
        found[:, 0] = self._missing(table, knob)
        found[rows[allowed], 1 + step[allowed]] = 0.0
        return found

    def decide(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """The step with the least of `values`, which are not written down."""
        step, allowed = self._onward(table.gate, table.node, knob.astype(np.int64), limit)
        return np.where((self._missing(table, knob) > 0) & allowed, step, EXIT)

    def settled(self, gate: int, node: np.ndarray, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray | None:
        """Settled are infinite thresholds: all scores reach -∞, and none reaches ∞."""
        if not self._infinite[gate - 1]:
            return None
        point = knob.astype(np.int64)
        threshold = looked_up(self.threshold[:, gate - 1], point)
        step, allowed = self._onward(gate, node, point, limit)
        return np.where(np.isinf(threshold), np.where((threshold > 0) & allowed, step, EXIT), OPEN)

    def _missing(self, table: Table, knob: np.ndarray) -> np.ndarray:
        """Threshold minus score (n,)."""
        point = knob.astype(np.int64)
        found: np.ndarray = looked_up(self.threshold[:, table.gate - 1], point) - self.scores(table, point)
        return found

    def _onward(
        self, gate: int, node: np.ndarray, point: np.ndarray, limit: Limit | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sequence's next precision (n,), and whether the tree and the limit allow it (n,)."""
        step = looked_up(self.sequence[:, gate], point)
        child = looked_up(self.tree.children, node, step)
        allowed = child >= 0
        if limit is not None:
            allowed &= looked_up(limit.costs, child) <= limit.most
        return step, allowed

    def knobs(self, points: int) -> np.ndarray:
        """All points, whatever the number that a sweep asks for."""
        return np.arange(len(self.threshold), dtype=np.float64)

    def shown(self, knobs: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._arrays["value"][knobs.astype(np.int64)]
        return found

    def first(self, knobs: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.sequence[knobs.astype(np.int64), 0]
        return found

    def under(self, costs: Costs) -> Self:
        return type(self)(self.tree, costs, self.feature_names, self._arrays)

    def arrays(self) -> Arrays:
        return self._arrays

    def fault(self) -> str:
        points, segments = len(self.threshold), self.tree.segments
        shapes = {"threshold": (points, segments - 1), "sequence": (points, segments), "value": (points,)}
        for name, shape in shapes.items():
            if self._arrays[name].shape != shape:
                return f"{name} has shape {self._arrays[name].shape} instead of {shape}"
        known = ((self.sequence >= 0) & (self.sequence < len(self.tree.precisions))).all()
        if not points or not known or any(lineage_of(self.tree, s)[-1] < 0 for s in self.sequence.tolist()):
            return "a sequence of precisions is not in the tree"
        return "a threshold is no number" if np.isnan(self.threshold).any() else ""

    @classmethod
    def load(cls, basis: Basis, arrays: Arrays) -> Self:
        return cls(basis.tree, cls.spends(basis.tree, basis.costs, basis.description), basis.feature_names, arrays)

    @classmethod
    def spends(cls, tree: PathTree, costs: Costs, description: dict[str, Any]) -> Costs:
        """Costs of the policy, by default of heads alone."""
        return costs.of_exits(tree)

    @classmethod
    def on(cls, setting: Setting, arrays: Arrays) -> Self:
        description = setting.basis.description
        return cls(setting.tree, cls.spends(setting.tree, setting.costs, description), setting.feature_names, arrays)

    @classmethod
    def without_points(cls, setting: Setting) -> Self:
        """A policy without points, which only scores states."""
        segments = setting.tree.segments
        return cls.on(setting, points_of((0,) * segments, np.zeros((0, segments - 1)), np.zeros(0)))

    def scored(self, cache: "FeatureCache", nodes: Sequence[int]) -> np.ndarray:
        """Scores (S, nodes, …) of a cache's samples along a lineage of nodes."""
        features = cache.features[:, nodes]
        if not self.carries:
            return self.score(features)
        return self.score(self.seen(features, walk(self, cache, nodes).carried[:, nodes]))

    def ends(self, cache: "FeatureCache", walks: Walks) -> np.ndarray:
        """(S, P) nodes at which a cache's samples exit at every point, as the simulation finds them.

        Where a score does not depend on the point, it is computed once per sequence and compared with all its thresholds.
        """
        knobs = self.knobs(0)
        if type(self).scores is not Thresholds.scores:
            return simulate_behind(self.tree, self, cache.features, knobs, self.first(knobs), walks)
        found = np.empty((len(cache), len(knobs)), np.int32)
        every, own = np.unique(self.sequence, axis=0, return_inverse=True)
        nodes, score = self._scored_along(cache, every.tolist())
        for index, lineage in enumerate(nodes):
            points = np.flatnonzero(own.ravel() == index)
            sure = score(index)[:, None] >= self.threshold[points]
            found[:, points] = lineage[first_exit(sure)]
        return found

    def _scored_along(
        self, cache: "FeatureCache", every: Sequence[Sequence[int]]
    ) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
        """Nodes (W, L) along W sequences, and a function that gives a sequence's scores (S, L - 1) before the last gate."""
        nodes = np.array([lineage_of(self.tree, sequence) for sequence in every])
        known, place = np.unique(nodes[:, :-1], return_inverse=True)
        score, place = self.scored(cache, known.tolist()), place.reshape(len(nodes), -1)
        return nodes, lambda index: score[:, place[index]]

    @classmethod
    def points(cls, setting: Setting) -> Arrays | None:
        """The points to choose from: thresholds along every sequence of precisions. None where nothing can be fitted."""
        return cls.along(setting, list(sequences(setting.tree)), POINTS)

    @classmethod
    def along(cls, setting: Setting, every: Sequence[Sequence[int]], count: int) -> Arrays:
        """Thresholds spread over the validation scores along each sequence, from "always exit" to "never exit"."""
        nodes, score = cls.without_points(setting)._scored_along(setting.caches["validation"], every)
        found = np.full((len(nodes), 1), np.inf)
        if nodes.shape[1] > 1:
            ranks = np.linspace(0, 1, count - 1)
            chunks = np.array_split(np.arange(len(nodes)), -(-len(nodes) // CHUNK))
            spread = [np.quantile(np.stack([score(i).ravel() for i in own]), ranks, axis=1).T for own in chunks]
            found = np.concatenate([np.concatenate(spread), found], axis=1)
        return joined(
            points_of(sequence, np.repeat(own[:, None], nodes.shape[1] - 1, axis=1), cls.sign * own)
            for sequence, own in zip(every, found, strict=True)
        )

    @classmethod
    def fit(cls, setting: Setting) -> Self | None:
        """The points on the convex hull of accuracy over cost on validation; None without data to fit on."""
        arrays = cls.points(setting)
        if arrays is None:
            return None
        found, cache = cls.on(setting, arrays), setting.caches["validation"]
        knobs, walks = found.knobs(0), walks_of(found, cache)
        ends = found.ends(cache, walks)
        error = wrong(found, ends, knobs, cache.error, walks)
        kept = hull(found.costs.routed[ends].mean(axis=0), 1 - error.mean(axis=0))
        return cls.on(setting, {name: a if name in cls.shared else a[kept] for name, a in arrays.items()})


def first_exit(sure: np.ndarray) -> np.ndarray:
    """(…,) index of the first gate of (…, L - 1) that is sure enough, else L - 1, the last."""
    found: np.ndarray = np.concatenate([sure, np.ones((*sure.shape[:-1], 1), bool)], axis=-1).argmax(axis=-1)
    return found


def points_of(sequence: Sequence[int], threshold: np.ndarray, value: np.ndarray, **others: np.ndarray) -> Arrays:
    """Points of one sequence, with thresholds (P, L - 1) and shown values (P,)."""
    return {
        "sequence": np.tile(np.array(sequence, np.int64), (len(value), 1)),
        "threshold": threshold,
        "value": value,
    } | others


def joined(parts: Iterator[Arrays] | Sequence[Arrays]) -> Arrays:
    """The points of several lists joined."""
    known = list(parts)
    return {name: np.concatenate([part[name] for part in known]) for name in known[0]}


def lineage_of(tree: PathTree, sequence: Sequence[int]) -> list[int]:
    """Nodes (L,) along a sequence of precisions; -1 from the first one that is not considered."""
    found, node = [], -1
    for gate, choice in enumerate(sequence):
        node = int(tree.children[node, choice]) if gate == 0 or node >= 0 else -1
        found.append(node)
    return found


def sequences(tree: PathTree) -> Iterator[tuple[int, ...]]:
    """Every considered sequence of precisions from the first segment to the last, as indices, in rising order."""
    lineages = [tree.lineage(int(node)) for node in tree.nodes_at(tree.segments)]
    yield from sorted(tuple(tree.choice[lineage].tolist()) for lineage in lineages)


def uniform_sequences(setting: Setting) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """For each uniform precision of the tree, its sequence and its nodes."""
    for _, nodes, references in setting.uniform():
        if not references:
            yield tuple(setting.tree.choice[nodes].tolist()), nodes
