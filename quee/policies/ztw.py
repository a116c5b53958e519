"""ZTW (Zero Time Waste, Wołczyk et al. 2021, arXiv 2106.05409): early exits by the confidence of an ensemble of all heads so far.

The ensembles are those of `quee.ensembles`, fitted on the predictor split, but near equal weights as published. They give
the answers too. A sample exits at the first gate where the largest probability reaches a threshold.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Self

import numpy as np

from quee.ensembles import Ensemble, Ensembles, ensemble_bitflops
from quee.paths import PathTree
from quee.policies.base import Costs, Table
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.policies.thresholds import POINTS, Arrays, Thresholds, joined, points_of, uniform_sequences

RIDGE = 1.0
"""Strength of the penalty that pulls the weights toward equal ones, 1/j."""


class Ztw(Thresholds):
    """Thresholds at every uniform precision of the tree.

    Besides those of `Thresholds`, `arrays` has `weight` (N, L) and `bias` (N, classes) of the ensembles, which are 0 away from
    uniform paths. It carries the largest probability.
    """

    carries = 1
    mixes = True
    measures = ()
    shared = ("weight", "bias")

    def __init__(self, tree: PathTree, costs: Costs, feature_names: Sequence[str], arrays: Arrays) -> None:
        super().__init__(tree, costs, feature_names, arrays)
        self.ensembles = Ensembles(arrays["weight"], arrays["bias"])
        self.classes = self.ensembles.classes

    def carry(self, node: np.ndarray, before: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs = self.ensembles.answers(node, said)
        return np.exp(log_probs.max(axis=1, keepdims=True)), log_probs

    def score(self, features: np.ndarray) -> np.ndarray:
        found: np.ndarray = features[..., -1]
        return found

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        return Table(gate, node, (self.score(view), 1 - self.score(view)))

    def fault(self) -> str:
        return super().fault() or self.ensembles.fault(self.tree, self.classes)

    @classmethod
    def spends(cls, tree: PathTree, costs: Costs, description: dict[str, Any]) -> Costs:
        """Costs of heads and of an ensemble of them at every gate; that of the nodes, if they have one, has the same products."""
        heads = costs.of_exits(tree)
        if "ensemble_cost" in description["nodes"][0]:
            return heads
        products = [ensemble_bitflops(gate, len(description["classes"])) for gate in range(1, tree.segments + 1)]
        own = np.array(products) / description["unit_bitflops"]
        return Costs.along(tree, heads.segment, heads.head + own[tree.gate - 1], heads.decision, heads.static)

    @classmethod
    def points(cls, setting: Setting) -> Arrays | None:
        ensembles = setting.remembered("ztw", lambda: fitted(setting))
        if ensembles is None:
            return None
        none = points_of((0,) * setting.tree.segments, np.zeros((0, setting.tree.segments - 1)), np.zeros(0))
        bare, found = cls.on(setting, none | ensembles.arrays()), []
        for sequence, nodes in uniform_sequences(setting):
            score = bare.scored(setting.caches["validation"], nodes)
            thresholds = np.append(np.quantile(score, np.linspace(0, 1, POINTS - 1)), np.inf)
            found.append(points_of(sequence, np.repeat(thresholds[:, None], len(nodes) - 1, axis=1), thresholds))
        return joined(found) | ensembles.arrays()

    @classmethod
    def whole(cls, setting: Setting) -> Self | None:
        """All points, those off the convex hull too."""
        arrays = cls.points(setting)
        return None if arrays is None else cls.on(setting, arrays)


def fitted(setting: Setting) -> Ensembles | None:
    """The ensembles along uniform paths, from the predictor split; None, with a line on stderr, where they are left out."""
    training, tree = setting.training, setting.tree
    if training is None:
        return None
    weight, bias = (
        np.zeros((len(tree), tree.segments)),
        np.zeros((len(tree), len(setting.basis.description["classes"]))),
    )
    for _, nodes in uniform_sequences(setting):
        heads = training.heads_at(nodes)
        if heads is None:
            _say_left_out(bias.shape[1])
            return None
        known = heads.astype(np.float64)
        for gate, node in enumerate(nodes, 1):
            own = Ensemble.fit(known[:, :gate], training.label, np.full(gate, 1 / gate), RIDGE)
            weight[node, :gate], bias[node] = own.weight, own.bias
    return Ensembles(weight, bias)


@cache
def _say_left_out(classes: int) -> None:
    print(f"ztw: left out, because the cache has no log-probabilities of all {classes} classes", file=sys.stderr)


def each_precision(setting: Setting) -> Iterator[Sweep]:
    """`ztw_PRECISION`: each uniform precision alone, references included."""
    for name, nodes, references in setting.uniform():
        alone = setting.along(name, nodes, references)
        if (policy := Ztw.whole(alone)) is not None:
            yield routed_sweep(f"ztw_{name}", alone, policy)
