"""Curves and budgets from sweeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quee.policies.sweep import Setting, Sweep
from quee.work.percentages import ROUNDING, VANISHING, ratio

GRID = 200
"""Budgets over which the area under a curve is averaged."""


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
    """A method at a budget: a mixture of two neighbouring points chosen by validation cost."""

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


def errors_at(sweep: Sweep, budgets: np.ndarray, floor: Floor, split: str = "test") -> np.ndarray:
    """Expected error of every sample at budgets (S, budgets).

    Below its cheapest point a method is mixed with the free floor, so that it is defined at every budget.
    """
    cheapest = sweep.validation_cost[0]
    weights = np.stack([sweep.weights(b)[0] for b in budgets], axis=1)
    found = sweep.errors[split] @ weights
    share = np.minimum(budgets / cheapest, 1.0)
    return share * found + (1 - share) * floor.errors[split][:, None]


def budget_grid(low: float, high: float, points: int = GRID) -> np.ndarray:
    return np.geomspace(low, high, points)


def area(sweep: Sweep, grid: np.ndarray, floor: Floor) -> float:
    """`auc`: mean test accuracy over log-uniform budgets."""
    return float(1 - errors_at(sweep, grid, floor).mean())


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
