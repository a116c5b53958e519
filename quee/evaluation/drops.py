"""The least cost at which a method is near the float network's accuracy, with its interval.

A replicate of the paired bootstrap draws the same test samples for the method and for the float network. It walks the
method's points by validation cost to the first one that is near enough. This first crossing of a noisy curve changes in
steps with single samples: intervals are wide, and lie below the estimate more often than above it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quee.evaluation.draws import LEVEL, Draws
from quee.evaluation.near import DROPS
from quee.policies.names import OURS, rivals
from quee.policies.sweep import Sweep

UNIT_METHOD = "static_w8a8"
"""Savings are also reported against this method, which costs 1."""
Near = Mapping[str, Sequence[np.ndarray]]
"""By method and seed, (R, drops): cost in each replicate; infinite where the accuracy is never reached."""


def cost_replicates(sweep: Sweep, float_errors: np.ndarray, draws: Draws) -> np.ndarray:
    """(R, drops) test cost at which a sweep is first within each of `DROPS` of the float network, errors (S,)."""
    order = sweep.order
    accuracy = 1 - draws.samples @ sweep.errors["test"][:, order].astype(np.float64)  # (R, P)
    spent = sweep.costs["test"][:, order]
    cost = spent[0] + draws.samples @ (spent - spent[0])  # exact where all samples cost the same
    reference = 1 - draws.samples @ float_errors.astype(np.float64)
    found = np.empty((len(cost), len(DROPS)))
    for column, drop in enumerate(DROPS):
        near = accuracy >= reference[:, None] - drop / 100 - 1e-12
        first = near.argmax(axis=1)
        found[:, column] = np.where(near.any(axis=1), cost[np.arange(len(cost)), first], np.inf)
    return found


def cost_intervals(near: Near, draws: Draws) -> dict[str, Any]:
    """By method and drop, over samples and seeds: 95 % interval of the cost, and the share of replicates that reach it.

    `cost_at_drop_ratio` compares our methods with each rival in the same replicates. A limit is None where it means
    "never". Where neither method reaches the accuracy, the ratio has no meaning.
    """
    costs = {name: _over_seeds(by_seed, draws).clip(min=0.0) for name, by_seed in near.items()}
    intervals = {
        name: {f"{drop}": _interval(costs[name][:, i], costs[name][:, i]) for i, drop in enumerate(DROPS)}
        for name in near
    }
    for name, by_drop in intervals.items():
        for index, row in enumerate(by_drop.values()):
            row["reached"] = float(np.isfinite(costs[name][:, index]).mean())
    ratios: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for ours in (name for name in OURS if name in costs):
        for rival in (name for name in (UNIT_METHOD, *rivals(costs)) if name in costs):
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.where(costs[rival] > 0, costs[ours] / costs[rival], np.nan)
            unknown = np.isnan(ratio)
            low, high = np.where(unknown, 0.0, ratio), np.where(unknown, np.inf, ratio)
            ratios.setdefault(ours, {})[rival] = {
                f"{drop}": _interval(low[:, i], high[:, i]) for i, drop in enumerate(DROPS)
            }
    return {"cost_at_drop": intervals, "cost_at_drop_ratio": ratios}


def _over_seeds(by_seed: Sequence[np.ndarray], draws: Draws) -> np.ndarray:
    """(R, drops) means over seeds; infinite where any seed never reaches the accuracy."""
    values = np.stack(by_seed)
    known = np.isfinite(values).all(axis=0)
    return np.where(known, draws.over_seeds(np.where(known, values, 0.0)), np.inf)


def _interval(low: np.ndarray, high: np.ndarray) -> dict[str, float | None]:
    """Percentiles of replicates, without interpolation because values may be infinite."""
    tail = (1 - LEVEL) / 2
    limits = {
        "high": float(np.quantile(high, 1 - tail, method="inverted_cdf")),
        "low": float(np.quantile(low, tail, method="inverted_cdf")),
    }
    return {name: value if np.isfinite(value) else None for name, value in limits.items()}
