"""Curves and budgets from sweeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quee.policies.sweep import Setting, Sweep
from quee.work.percentages import ROUNDING, VANISHING, ratio

AUC_BUDGETS = np.geomspace(1 / 16, 1.0, 200)
"""Budgets over which `auc` is the mean: the same for every tree, experiment and data set, so that trees can be compared."""


@dataclass(frozen=True)
class Floor:
    """The method that costs nothing: it always answers the most frequent class. Errors (S,) by split."""

    errors: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, setting: Setting) -> "Floor":
        """The floor that answers the class most frequent on validation."""
        frequent = np.bincount(setting.caches["validation"].label).argmax()
        return cls({split: (cache.label != frequent).astype(float) for split, cache in setting.caches.items()})


@dataclass(frozen=True)
class OperatingPoint:
    """A method at a budget, which is a ceiling: the point, or mixture of two, that validation chose."""

    method: str
    budget: float
    lambda_low: float
    lambda_high: float
    weight_high: float
    validation_cost: float
    validation_accuracy: float
    test_cost: float
    test_accuracy: float
    budget_met: bool
    policy: str = ""
    """Name of the policy, or of the two that are mixed; empty where the method is the policy."""


def operating_point(sweep: Sweep, budget: float) -> OperatingPoint:
    weights, met = sweep.weights(budget)
    used = np.flatnonzero(weights)
    low, high = used[0], used[-1]
    if sweep.costs["validation"][:, low].mean() > sweep.costs["validation"][:, high].mean():
        low, high = high, low
    return OperatingPoint(
        sweep.name,
        budget,
        float(sweep.values[low]),
        float(sweep.values[high]),
        float(weights[high]) if low != high else 0.0,
        float((sweep.costs["validation"] @ weights).mean()),
        float(1 - (sweep.errors["validation"] @ weights).mean()),
        float((sweep.costs["test"] @ weights).mean()),
        float(1 - (sweep.errors["test"] @ weights).mean()),
        met,
        " + ".join(dict.fromkeys(sweep.policies[point] for point in (low, high) if sweep.policies)),
    )


def errors_within(sweep: Sweep, budgets: np.ndarray, floor: Floor, split: str = "test") -> np.ndarray:
    """Expected error of every sample (S, budgets), where budgets are ceilings."""
    return _floored(sweep, np.stack([sweep.weights(b)[0] for b in budgets], axis=1), budgets, floor, split)


def errors_at(sweep: Sweep, budgets: np.ndarray, floor: Floor, split: str = "test") -> np.ndarray:
    """Expected error of every sample along the curve, where budgets are spent (S, budgets)."""
    return _floored(sweep, np.stack([sweep.spending(b)[0] for b in budgets], axis=1), budgets, floor, split)


def _floored(sweep: Sweep, weights: np.ndarray, budgets: np.ndarray, floor: Floor, split: str) -> np.ndarray:
    """Errors (S, B) of points mixed by weights (P, B).

    Below its cheapest point a method is mixed with the free floor, so that it is defined at every budget.
    """
    cheapest = sweep.validation_cost[0]
    found = sweep.errors[split] @ weights
    share = share_above_floor(budgets, cheapest)
    return share * found + (1 - share) * floor.errors[split][:, None]


def share_above_floor(budgets: np.ndarray, cheapest: float) -> np.ndarray:
    """(B,) share of the samples that a method serves whose cheapest point costs so much; the free floor serves the others."""
    return np.minimum(budgets / cheapest, 1.0)


def area_errors(sweep: Sweep, floor: Floor, split: str = "test") -> np.ndarray:
    """(S,) expected error of every sample, mean over `AUC_BUDGETS`; 1 - their mean is `auc`."""
    found: np.ndarray = errors_at(sweep, AUC_BUDGETS, floor, split).mean(axis=1)
    return found


def area(sweep: Sweep, floor: Floor) -> float:
    """`auc`: mean test accuracy over `AUC_BUDGETS`."""
    return float(1 - area_errors(sweep, floor).mean())


def cost_at_drop(sweep: Sweep, reference: float | None, drop: float) -> float | None:
    """Least test cost at which test accuracy is within `drop` points of the reference; points are in order of validation cost.

    None where the method never reaches this accuracy, or there is no reference.
    """
    if reference is None:
        return None
    accuracy = 1 - sweep.errors["test"].mean(axis=0)[sweep.order]
    cost = sweep.costs["test"].mean(axis=0)[sweep.order]
    reached = np.flatnonzero(accuracy >= reference - drop / 100 - 1e-12)
    return float(cost[reached[0]]) if len(reached) else None


def gap_closed(auc: float, static: float, oracle: float) -> float | None:
    """(auc - auc_static_hull) / (auc_oracle - auc_static_hull).

    None where the gap is below a hundredth of a point, and where the method is above the oracle, which happens if it
    spends more on test than on validation.
    """
    found = ratio(auc - static, oracle - static, VANISHING)
    return None if found is None or found > 1 + ROUNDING else min(found, 1.0)


def usage(labels: np.ndarray, nodes: np.ndarray, weights: np.ndarray, classes: Sequence[str], count: int) -> np.ndarray:
    """Expected number of samples per class and node (classes, N) at an operating point; nodes (S, P), weights (P,)."""
    table = np.zeros((len(classes), count))
    for point in np.flatnonzero(weights):
        np.add.at(table, (labels, nodes[:, point]), weights[point])
    return table
