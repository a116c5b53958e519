"""What it costs to get near the float network: the least cost within so many points of its accuracy, with its interval.

A replicate of the paired bootstrap draws test samples, of the method and of the float network alike, and goes along the
method's points by their cost on validation to the first that is near enough. As the first crossing of a noisy curve it
is a step function of single samples: intervals are wide, and lie below the estimate more often than above it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quee.evaluation.draws import LEVEL, Draws
from quee.policies.names import OURS, rivals
from quee.policies.sweep import Sweep

DROPS = (0.5, 1.0)
"""Points of accuracy below the float network."""
DEPLOYED = "static_w8a8"
"""What is saved against, beside the rivals in accuracy: cost 1."""
Near = Mapping[str, Sequence[np.ndarray]]
"""By method and seed, (R, drops): cost in each replicate; infinite where it never gets there."""


def cost_replicates(sweep: Sweep, float_errors: np.ndarray, draws: Draws) -> np.ndarray:
    """(R, drops) test cost at which a sweep is first within each of `DROPS` of the float network, errors (S,)."""
    order = sweep.order
    accuracy = 1 - draws.samples @ sweep.errors["test"][:, order].astype(np.float64)  # (R, P)
    spent = sweep.costs["test"][:, order]
    cost = spent[0] + draws.samples @ (spent - spent[0])  # exact where all samples spend the same
    reference = 1 - draws.samples @ float_errors.astype(np.float64)
    found = np.empty((len(cost), len(DROPS)))
    for column, drop in enumerate(DROPS):
        near = accuracy >= reference[:, None] - drop / 100 - 1e-12
        first = near.argmax(axis=1)
        found[:, column] = np.where(near.any(axis=1), cost[np.arange(len(cost)), first], np.inf)
    return found


def cost_intervals(near: Near, draws: Draws) -> dict[str, Any]:
    """By method and drop, over samples and seeds: 95 % interval of the cost, and the share of replicates that get there.

    `cost_at_drop_ratio` compares ours with each rival in the same replicates. A limit is None where it is “never”; where
    both never get there the ratio is anything.
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
        for rival in (name for name in (DEPLOYED, *rivals(costs)) if name in costs):
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.where(costs[rival] > 0, costs[ours] / costs[rival], np.nan)
            unknown = np.isnan(ratio)
            low, high = np.where(unknown, 0.0, ratio), np.where(unknown, np.inf, ratio)
            ratios.setdefault(ours, {})[rival] = {
                f"{drop}": _interval(low[:, i], high[:, i]) for i, drop in enumerate(DROPS)
            }
    return {"cost_at_drop": intervals, "cost_at_drop_ratio": ratios}


def _over_seeds(by_seed: Sequence[np.ndarray], draws: Draws) -> np.ndarray:
    """(R, drops); infinite where one seed never gets there, as the mean over seeds has it."""
    values = np.stack(by_seed)
    known = np.isfinite(values).all(axis=0)
    return np.where(known, draws.over_seeds(np.where(known, values, 0.0)), np.inf)


def _interval(low: np.ndarray, high: np.ndarray) -> dict[str, float | None]:
    """Percentiles of replicates that may be infinite, so not interpolated."""
    tail = (1 - LEVEL) / 2
    limits = {
        "high": float(np.quantile(high, 1 - tail, method="inverted_cdf")),
        "low": float(np.quantile(low, tail, method="inverted_cdf")),
    }
    return {name: value if np.isfinite(value) else None for name, value in limits.items()}
