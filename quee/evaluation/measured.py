"""Measurements of a sweep for statistics: errors per sample at the budgets, not at every operating point."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quee.evaluation.curves import (
    Floor,
    OperatingPoint,
    area_errors,
    cost_at_drop,
    errors_at,
    errors_within,
    operating_point,
)
from quee.evaluation.near import DROPS
from quee.policies.sweep import Setting, Sweep
from quee.precision import FLOAT

BAND_POINTS = 40


@dataclass(frozen=True)
class Yardstick:
    """The budgets, floor and float accuracy that every method is measured with."""

    budgets: np.ndarray
    """(B,)"""
    band: np.ndarray
    """(BAND_POINTS,) log-uniform budgets over the range of the tree's static paths, for a band around the whole curve."""
    floor: Floor
    float_accuracy: float | None
    """Float accuracy on test; None where the float network is not among the precisions and references."""

    @classmethod
    def of(cls, setting: Setting, budgets: Sequence[float], floor: Floor) -> "Yardstick":
        costs, errors = setting.costs.static, float_errors(setting)
        accuracy = None if errors is None else float(1 - errors.mean())
        return cls(np.array(budgets, float), np.geomspace(costs.min(), costs.max(), BAND_POINTS), floor, accuracy)


@dataclass(frozen=True)
class Measured:
    """One method under one seed, on S test and V validation samples, at B budgets."""

    name: str
    kind: str
    errors: np.ndarray
    """(S, B), mixed with the free floor below the cheapest point; for differences between methods."""
    band: np.ndarray
    """(S, BAND_POINTS) the same at the budgets of the band."""
    overall: np.ndarray
    """(S,) mean over the budgets of `auc`."""
    mixed: np.ndarray
    """(S, B) at the operating points; the nearest point if a budget cannot be met."""
    validation_errors: np.ndarray
    """(V, B)"""
    validation_costs: np.ndarray
    """(V, B)"""
    points: list[OperatingPoint]
    cheapest: float
    """Least validation cost."""
    dearest_accuracy: float
    drops: dict[float, float | None]
    """By points below the float network's accuracy, the least test cost; None where it is never reached or unknown."""
    curve: list[tuple[str, float | None, float, float]]
    """Split, λ or threshold, accuracy and cost of every point, by rising validation cost."""

    @property
    def auc(self) -> float:
        return float(1 - self.overall.mean())


def measure(sweep: Sweep, yardstick: Yardstick) -> Measured:
    mix = np.stack([sweep.weights(budget)[0] for budget in yardstick.budgets], axis=1)  # (P, B)
    floor = yardstick.floor
    return Measured(
        sweep.name,
        sweep.kind,
        errors_within(sweep, yardstick.budgets, floor),
        errors_at(sweep, yardstick.band, floor),
        area_errors(sweep, floor),
        sweep.errors["test"] @ mix,
        sweep.errors["validation"] @ mix,
        sweep.costs["validation"] @ mix,
        [operating_point(sweep, float(budget)) for budget in yardstick.budgets],
        float(sweep.validation_cost[0]),
        float(1 - sweep.errors["test"].mean(axis=0)[sweep.order[-1]]),
        {drop: cost_at_drop(sweep, yardstick.float_accuracy, drop) for drop in DROPS},
        curve_of(sweep),
    )


def curve_of(sweep: Sweep) -> list[tuple[str, float | None, float, float]]:
    """Split, λ or threshold (None where infinite or without meaning), accuracy and cost by rising validation cost."""
    order, curve = sweep.order, []
    values = [float(v) if np.isfinite(v) else None for v in sweep.values[order]]
    for split in ("validation", "test"):
        accuracy, cost = 1 - sweep.errors[split].mean(axis=0), sweep.costs[split].mean(axis=0)
        curve += [(split, v, float(accuracy[p]), float(cost[p])) for v, p in zip(values, order, strict=True)]
    return curve


def float_errors(setting: Setting, split: str = "test") -> np.ndarray | None:
    """(S,) errors of the float network; None where it is not among the precisions and references."""
    found = next((found for found in setting.uniform() if found[0] == FLOAT), None)
    return None if found is None else setting.own_errors(split, found[2])[:, found[1][-1]]
