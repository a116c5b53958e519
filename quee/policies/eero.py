"""Exits by shares found with exponential weights under a budget, after EERO (Valade, Hebiri, Gay, UAI 2025).

We worked from its abstract. Each head is a classifier with a reject option; which share of samples is to leave at each
is found by aggregation with exponential weights, from the heads' risks on validation and what they cost:

    w_k ∝ exp(-(r_k + μ c_k) / T),   μ ≥ 0 the least for which Σ w_k c_k is within the budget.

This is the minimum of the risk of the mixture plus T · KL(w, uniform) under the budget; T = 1/√(8 n ln K) is the rate of
exponential weights over n samples and K heads. At a gate the surest of those still there leave, up to its share: the
thresholds are quantiles of confidence on validation.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import brentq

from quee.evaluation.sweep import Setting, Sweep, hull_of
from quee.policies.confidence import exits_by_threshold

BUDGETS = 25
STEEPEST = 1e6
"""Price at which only the cheapest exit has weight left."""


def exit_shares(risk: np.ndarray, cost: np.ndarray, budget: float, temperature: float) -> np.ndarray:
    """Share of samples (K,) to leave at each exit; where the budget is below the cheapest exit, all at that."""

    def weights(price: float) -> np.ndarray:
        score = -(risk + price * cost) / temperature
        found = np.exp(score - score.max())
        return found / found.sum()

    if weights(0.0) @ cost <= budget:
        return weights(0.0)
    if weights(STEEPEST) @ cost >= budget:
        return weights(STEEPEST)
    price = brentq(lambda p: weights(p) @ cost - budget, 0.0, STEEPEST, xtol=1e-10)
    return weights(float(price))


def share_thresholds(score: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Thresholds (K - 1,) on scores (S, K), larger: surer, at which the shares (K,) leave, gate by gate."""
    staying = np.arange(len(score))
    thresholds = np.full(len(shares) - 1, np.inf)
    for gate, share in enumerate(shares[:-1]):
        count = round(share * len(score))
        own = np.sort(score[staying, gate])[::-1]
        if count and len(own):
            thresholds[gate] = own[min(count, len(own)) - 1]
            staying = staying[score[staying, gate] < thresholds[gate]]
    return thresholds


def eero(setting: Setting) -> Iterator[Sweep]:
    """`eero`: a range of budgets at every uniform precision of the tree, their hull on validation."""
    column, sweeps = setting.feature_names.index("max_probability"), []
    for _, nodes, references in setting.uniform():
        if references:
            continue
        spent = setting.spent(nodes)
        score = {split: setting.features(split)[:, nodes, column].astype(np.float64) for split in setting.splits}
        own = setting.errors("validation")[:, nodes].mean(axis=0)
        temperature = 1 / np.sqrt(8 * len(score["validation"]) * np.log(max(len(nodes), 2)))
        thresholds = np.stack(
            [
                share_thresholds(score["validation"], exit_shares(own, spent, float(budget), temperature))
                for budget in np.geomspace(spent[0], spent[-1], BUDGETS)
            ],
            axis=1,
        )  # (K - 1, budgets)
        never = np.full((1, BUDGETS), np.inf)
        thresholds = np.concatenate([thresholds, never])
        gate = {split: exits_by_threshold(score[split], thresholds) for split in setting.splits}
        errors = {s: np.take_along_axis(setting.errors(s)[:, nodes], g, axis=1) for s, g in gate.items()}
        costs = {s: spent[g] for s, g in gate.items()}
        sweeps.append(Sweep("", "threshold", thresholds[0], errors, costs))
    yield hull_of("eero", sweeps)
