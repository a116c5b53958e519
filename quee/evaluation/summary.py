"""What an evaluation says: metrics by method and the rows of its tables, from sweeps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from quee.evaluation.curves import (
    Floor,
    budget_grid,
    cost_at_drop,
    errors_at,
    gap_closed,
    interval,
    operating_point,
    resamples,
    simultaneous_band,
    usage,
)
from quee.evaluation.sweep import Setting, Sweep
from quee.experiment import Evaluate

Row = dict[str, Any]

REFERENCE = "static_hull"
OURS = ("quee_plan", "quee_fitted_q")
RIVALS = ("static_hull", "confidence_hull", "random_routing")
BAND_POINTS = 40


def compare(sweeps: Sequence[Sweep], settings: Evaluate, floor: Floor, grid: np.ndarray) -> dict[str, Any]:
    """Metrics by method, differences to the static hull, gains of QuEE's policies, and the gap closed."""
    by_name = {sweep.name: sweep for sweep in sweeps}
    budgets = np.array(settings.budgets)
    weights = resamples(len(sweeps[0].errors["test"]), settings.bootstrap, settings.seed)
    reference = by_name.get("static_fp32", by_name[REFERENCE])
    float_accuracy = float(1 - reference.errors["test"].mean(axis=0).min())
    baseline = errors_at(by_name[REFERENCE], budgets, floor)
    over_grid = {name: errors_at(sweep, grid, floor).mean(axis=1) for name, sweep in by_name.items()}  # (S,)
    auc = {name: float(1 - errors.mean()) for name, errors in over_grid.items()}
    methods, difference = {}, {}
    for name, sweep in by_name.items():
        at = [operating_point(sweep, float(budget)) for budget in budgets]
        methods[name] = {
            "accuracy": float(1 - sweep.errors["test"].mean(axis=0)[sweep.order[-1]]),
            "accuracy_at_budget": {f"{p.budget:g}": p.test_accuracy for p in at},
            "auc": auc[name],
            "budget_met": {f"{p.budget:g}": p.budget_met for p in at},
            "cost_at_budget": {f"{p.budget:g}": p.test_cost for p in at},
            "cost_at_drop_0.5": cost_at_drop(sweep, float_accuracy, 0.5),
            "cost_at_drop_1.0": cost_at_drop(sweep, float_accuracy, 1.0),
        }
        found = paired(baseline - errors_at(sweep, budgets, floor), weights)
        difference[name] = {f"{budget:g}": row for budget, row in zip(budgets, found, strict=True)}
    gains = {
        f"gain.{ours}.{rival}": paired((over_grid[rival] - over_grid[ours])[:, None], weights)[0]
        for ours in OURS
        for rival in RIVALS
    }
    return {
        "difference_vs_static_hull": difference,
        "gains": gains,
        "methods": methods,
        "oracle_gap_closed": {name: gap_closed(value, auc[REFERENCE], auc["oracle"]) for name, value in auc.items()},
    }


def paired(gain: np.ndarray, weights: np.ndarray) -> list[dict[str, float]]:
    """Mean and 95 % bootstrap interval of each column of per-sample gains (S, P); `weights` (repeats, S)."""
    low, high = interval(weights @ gain)
    return [
        {"high": float(h), "low": float(lo), "mean": float(m)}
        for m, lo, h in zip(gain.mean(axis=0), low, high, strict=True)
    ]


def operating_rows(sweeps: Iterable[Sweep], settings: Evaluate) -> list[Row]:
    """Every method at every budget.

    `low` and `high` hold the test accuracy. `accuracy_low`, `accuracy_high`, `cost_low` and `cost_high` are what
    validation says of the mean on new data at this point: bootstrap over validation samples, test data unseen.
    """
    rows, budgets = [], [float(budget) for budget in settings.budgets]
    drawn: dict[int, np.ndarray] = {}

    def over(samples: int) -> np.ndarray:
        if samples not in drawn:
            drawn[samples] = resamples(samples, settings.bootstrap, settings.seed)
        return drawn[samples]

    for sweep in sweeps:
        mix = np.stack([sweep.weights(budget)[0] for budget in budgets], axis=1)  # (P, budgets)
        errors = {split: sweep.errors[split] @ mix for split in ("validation", "test")}
        costs = sweep.costs["validation"] @ mix
        low, high = interval(1 - over(len(errors["test"])) @ errors["test"])
        resampled = over(len(costs))
        accuracy_low, accuracy_high = interval(1 - resampled @ errors["validation"])
        cost_low, cost_high = interval(resampled @ costs)
        for index, budget in enumerate(budgets):
            rows.append(
                {
                    **asdict(operating_point(sweep, budget)),
                    "accuracy_high": float(accuracy_high[index]),
                    "accuracy_low": float(accuracy_low[index]),
                    "cost_high": float(cost_high[index]),
                    "cost_low": float(cost_low[index]),
                    "high": float(high[index]),
                    "low": float(low[index]),
                    "seed": 0,
                }
            )
    return rows


def band_rows(sweeps: Sequence[Sweep], settings: Evaluate, floor: Floor, grid: np.ndarray) -> list[Row]:
    """Accuracy of every method over the budgets it reaches, with a band that holds at all of them at once."""
    costs = budget_grid(grid[0], grid[-1], BAND_POINTS)
    weights = resamples(len(sweeps[0].errors["test"]), settings.bootstrap, settings.seed)
    rows = []
    for sweep in sweeps:
        errors = errors_at(sweep, costs, floor)
        low, high = simultaneous_band(errors, weights)
        accuracy = 1 - errors.mean(axis=0)
        for index in np.flatnonzero(costs >= sweep.validation_cost[0] - 1e-12):
            row = {"accuracy": accuracy[index], "cost": costs[index], "high": high[index], "low": low[index]}
            rows.append({**{key: float(value) for key, value in row.items()}, "method": sweep.name})
    return rows


def curve_rows(sweeps: Iterable[Sweep]) -> list[Row]:
    """Accuracy and cost of every operating point on validation and test, by rising validation cost."""
    rows = []
    for sweep in sweeps:
        for split in ("validation", "test"):
            cost, error = sweep.costs[split].mean(axis=0), sweep.errors[split].mean(axis=0)
            for point in sweep.order:
                value = float(sweep.values[point]) if np.isfinite(sweep.values[point]) else None
                rows.append(
                    {
                        "method": sweep.name,
                        "lambda": value if sweep.kind == "lambda" else None,
                        "threshold": value if sweep.kind == "threshold" else None,
                        "split": split,
                        "seed": 0,
                        "accuracy": float(1 - error[point]),
                        "cost": float(cost[point]),
                    }
                )
    return rows


def usage_rows(sweeps: Iterable[Sweep], settings: Evaluate, setting: Setting, classes: Sequence[str]) -> list[Row]:
    """Where each class leaves, at every budget, for the policies."""
    rows = []
    label, tree = setting.caches["test"].label, setting.tree
    for sweep in sweeps:
        if sweep.nodes is None or sweep.kind != "lambda":
            continue
        for budget in settings.budgets:
            table = usage(label, sweep.nodes["test"], sweep.weights(budget)[0], classes, len(tree))
            for index, node in np.argwhere(table > 0):
                count = table[index, node]
                rows.append(
                    {
                        "budget": budget,
                        "class": classes[index],
                        "label": int(index),
                        "method": sweep.name,
                        "path": tree.name(int(node)),
                        "samples": float(count),
                        "share": float(count / table[index].sum()),
                    }
                )
    return rows


def resplit_summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval (normal, over repetitions) of each method's auc, and QuEE's gains over the baselines."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(str(row["method"]), []).append(float(row["auc"]))
    found = {name: np.array(column) for name, column in values.items()}
    result = {f"auc.{name}": mean_interval(column) for name, column in found.items()}
    for ours in OURS:
        for rival in RIVALS:
            result[f"gain.{ours}.{rival}"] = mean_interval(found[ours] - found[rival])
    return result


def mean_interval(values: np.ndarray) -> dict[str, float]:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"high": float(values.mean() + half), "low": float(values.mean() - half), "mean": float(values.mean())}
