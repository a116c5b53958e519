"""Learned gates after JEI-DNN (ICLR 2024), on our frozen heads: a logistic regression per gate and λ.

A gate sees the largest probability, entropy, margin and entropy of p²/Σp² of its own head. Its target is 1 where the
exit with least cross-entropy + λ · cost is at the gate or before it (the cumulative one-hot of the argmin). A sample
exits at the first gate whose probability is above one half. Gates are fitted on the predictor split; JEI-DNN also trains
the heads. With 0/1 errors instead of the cross-entropy, all λ below 1 have the same targets, and curves are worse.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.cost import FLOAT_BITS, bitflops
from quee.paths import PathTree
from quee.policies.base import Costs, Table
from quee.policies.sweep import Setting
from quee.policies.thresholds import Arrays, Thresholds, joined, points_of, uniform_sequences
from quee.work.lookup import looked_up

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache

FEATURES = ("max_probability", "entropy", "margin", "sharpened_entropy")
PRICES = np.concatenate([[0.0], np.geomspace(0.003, 100.0, 39)])
RIDGE = 0.1
"""Penalty on each weight, so that separable targets have a solution."""
STEPS = 30


def fit_logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (1 + F, Λ), intercept first, of logistic regressions on x (n, F) for targets y (n, Λ): Newton's method."""
    from scipy.special import expit

    z = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    rate = np.clip(y.mean(axis=0), 1e-3, 1 - 1e-3)
    w = np.zeros((z.shape[1], y.shape[1]))
    w[0] = np.log(rate / (1 - rate))
    penalty = np.full(z.shape[1], RIDGE)
    penalty[0] = 1e-3  # where all targets are equal, the intercept would grow without bound
    for _ in range(STEPS):
        p = expit(z @ w)
        slope = z.T @ (p - y) + penalty[:, None] * w  # (1 + F, Λ)
        curve = np.einsum("nf,nl,ng->lfg", z, p * (1 - p), z, optimize=True) + np.diag(penalty)
        step = np.linalg.solve(curve, slope.T[:, :, None])[:, :, 0].T
        w -= np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-8:
            break
    return w


class JeiGate(Thresholds):
    """A range of λ at every uniform precision of the tree.

    Besides those of `Thresholds`, `arrays` has `weight` (P, L - 1, 1 + F), intercept first, and `mean` and `scale`
    (P, L - 1, F) of the features that a gate sees.
    """

    kind = "lambda"
    measures = FEATURES

    def score(self, features: np.ndarray) -> np.ndarray:
        """The features themselves (…, F), because their score depends on the point."""
        return np.stack([self.column(features, name) for name in FEATURES], axis=-1)

    def scores(self, table: Table, point: np.ndarray) -> np.ndarray:
        arrays, gate = self.arrays(), table.gate - 1
        weight, mean, scale = (looked_up(arrays[name][:, gate], point) for name in ("weight", "mean", "scale"))
        found: np.ndarray = weight[:, 0] + ((table.columns[0] - mean) / scale * weight[:, 1:]).sum(axis=1)
        return found

    def fault(self) -> str:
        if fault := super().fault():
            return fault
        shape = (*self.threshold.shape, len(FEATURES))
        for name, wanted in (("weight", (*shape[:2], 1 + shape[2])), ("mean", shape), ("scale", shape)):
            if self.arrays()[name].shape != wanted:
                return f"{name} has shape {self.arrays()[name].shape} instead of {wanted}"
        return ""

    @classmethod
    def spends(cls, tree: PathTree, costs: Costs, description: dict[str, Any]) -> Costs:
        """Costs of heads, and of a regression at every gate before the last."""
        own = bitflops(len(FEATURES), (FLOAT_BITS, FLOAT_BITS)) / description["unit_bitflops"]
        heads, asked = costs.of_exits(tree), np.minimum(tree.gate, tree.segments - 1)
        decision = np.where(tree.gate < tree.segments, own, 0.0)
        return replace(heads, decision=decision, routed=heads.routed + own * asked)

    @classmethod
    def points(cls, setting: Setting) -> Arrays | None:
        train = setting.training
        if train is None:
            return None
        bare = cls.without_points(setting)

        def regressed() -> Arrays:
            seen = bare.score(train.features)  # (n, N, F)
            return joined(bare._regressed(train, seen, *uniform) for uniform in uniform_sequences(setting))

        return setting.remembered("jei_gate", regressed)

    def _regressed(
        self, train: "FeatureCache", seen: np.ndarray, sequence: tuple[int, ...], nodes: list[int]
    ) -> Arrays:
        loss = -np.log(np.maximum(train.p_label[:, nodes].astype(np.float64), 1e-6))
        best = (loss[:, :, None] + self.costs.routed[nodes][:, None] * PRICES).argmin(axis=1)  # (n, Λ)
        shape = (len(PRICES), len(nodes) - 1, len(FEATURES))
        weight, mean, scale = np.zeros((*shape[:2], 1 + shape[2])), np.zeros(shape), np.ones(shape)
        for gate, node in enumerate(nodes[:-1]):
            x = np.asfortranarray(seen[:, node])  # contiguous per feature, for means over samples
            mean[:, gate], scale[:, gate] = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
            own = fit_logistic((x - mean[0, gate]) / scale[0, gate], (best <= gate).astype(float))
            weight[:, gate] = own.T
        return points_of(sequence, np.zeros(shape[:2]), PRICES, weight=weight, mean=mean, scale=scale)
