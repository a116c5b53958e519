"""Shares of samples per exit from exponential weights under a budget, after EERO (Valade, Hebiri, Gay, UAI 2025).

We worked from the abstract. Each head is a classifier with a reject option. Aggregation with exponential weights gives
the share of samples to exit at each head, from the heads' risks on validation and their costs:

    w_k ∝ exp(-(r_k + μ c_k) / T),   μ ≥ 0 the least for which Σ w_k c_k is within the budget.

These weights minimise the risk of the mixture plus T · KL(w, uniform) under the budget; T = 1/√(8 n ln K) is the rate of
exponential weights over n samples and K heads. At each gate the most confident of the remaining samples exit, up to the
gate's share; the thresholds are quantiles of confidence on validation.
"""

import numpy as np

from quee.policies.sweep import Setting
from quee.policies.thresholds import Arrays, Thresholds, joined, points_of, uniform_sequences

BUDGETS = 25
STEEPEST = 1e6
"""Price μ at which only the cheapest exit still has weight."""


def exit_shares(risk: np.ndarray, cost: np.ndarray, budget: float, temperature: float) -> np.ndarray:
    """Share of samples (K,) per exit; all at the cheapest exit if the budget is below its cost."""

    def weights(price: float) -> np.ndarray:
        score = -(risk + price * cost) / temperature
        found = np.exp(score - score.max())
        return found / found.sum()

    from scipy.optimize import brentq  # slow to import, and needed only for fitting

    if weights(0.0) @ cost <= budget:
        return weights(0.0)
    if weights(STEEPEST) @ cost >= budget:
        return weights(STEEPEST)
    price = brentq(lambda p: weights(p) @ cost - budget, 0.0, STEEPEST, xtol=1e-10)
    return weights(float(price))


def share_thresholds(score: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Thresholds (K - 1,) on confidence scores (S, K) at which the shares (K,) exit, gate by gate."""
    staying = np.arange(len(score))
    thresholds = np.full(len(shares) - 1, np.inf)
    for gate, share in enumerate(shares[:-1]):
        count = round(share * len(score))
        own = np.sort(score[staying, gate])[::-1]
        if count and len(own):
            thresholds[gate] = own[min(count, len(own)) - 1]
            staying = staying[score[staying, gate] < thresholds[gate]]
    return thresholds


class Eero(Thresholds):
    """A range of budgets at every uniform precision of the tree."""

    measures = ("max_probability",)

    def score(self, features: np.ndarray) -> np.ndarray:
        return self.column(features, "max_probability")

    @classmethod
    def points(cls, setting: Setting) -> Arrays:
        return joined(cls._within(setting, *uniform) for uniform in uniform_sequences(setting))

    @classmethod
    def _within(cls, setting: Setting, sequence: tuple[int, ...], nodes: list[int]) -> Arrays:
        spent = setting.spent(nodes)
        score = cls.without_points(setting).score(setting.features("validation")[:, nodes])
        own = setting.errors("validation")[:, nodes].mean(axis=0)
        temperature = 1 / np.sqrt(8 * len(score) * np.log(max(len(nodes), 2)))
        thresholds = np.stack(
            [
                share_thresholds(score, exit_shares(own, spent, float(budget), temperature))
                for budget in np.geomspace(spent[0], spent[-1], BUDGETS)
            ]
        )  # (budgets, K - 1)
        value = thresholds[:, 0] if len(nodes) > 1 else np.full(BUDGETS, np.inf)
        return points_of(sequence, thresholds, value)
