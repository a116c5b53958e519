"""Rows of the evaluation's tables, from the measurements of each method."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from quee.evaluation.curves import usage
from quee.evaluation.draws import Draws, simultaneous_band
from quee.evaluation.measured import Measured, Yardstick
from quee.evaluation.summary import Found
from quee.intervals import interval, resamples
from quee.measure import LABELLED
from quee.policies.sweep import Setting, Sweep
from quee.work.percentages import SHARE

Row = dict[str, Any]


def operating_rows(found: Found, draws: Draws, seed: int = 0, groups: np.ndarray | None = None) -> list[Row]:
    """Every method under every seed at every budget.

    `low` and `high` are the interval of the test accuracy. `accuracy_low`, `accuracy_high`, `cost_low` and `cost_high`
    are intervals of the means on new data at this point, from a bootstrap over validation samples, or over their `groups`
    (V,), without test data.
    """
    rows, validation = [], np.zeros((0, 0))
    for by_seed in found.values():
        for number, method in enumerate(by_seed):
            if validation.shape[1] != len(method.validation_errors):
                validation = resamples(len(method.validation_errors), len(draws.samples), seed, groups)
            low, high = interval(1 - draws.samples @ method.mixed)
            accuracy_low, accuracy_high = interval(1 - validation @ method.validation_errors)
            cost_low, cost_high = interval(validation @ method.validation_costs)
            for index, point in enumerate(method.points):
                rows.append(
                    {
                        **asdict(point),
                        "accuracy_high": float(accuracy_high[index]),
                        "accuracy_low": float(accuracy_low[index]),
                        "cost_high": float(cost_high[index]),
                        "cost_low": float(cost_low[index]),
                        "high": float(high[index]),
                        "low": float(low[index]),
                        "seed": number,
                    }
                )
    return rows


def budget_rows(found: Found, yardstick: Yardstick, draws: Draws) -> list[Row]:
    """Every method at every budget, mean over seeds. `low` and `high` hold for one budget, the band for all at once."""
    rows = []
    for name, by_seed in found.items():
        mixed = np.stack([method.mixed for method in by_seed])
        replicates, mean = 1 - draws.replicates(mixed), 1 - mixed.mean(axis=(0, 1))
        low, high = interval(replicates.clip(*SHARE))
        band_low, band_high = simultaneous_band(mean, replicates, SHARE)
        for index, budget in enumerate(yardstick.budgets):
            points = [method.points[index] for method in by_seed]
            rows.append(
                {
                    "band_high": float(band_high[index]),
                    "band_low": float(band_low[index]),
                    "budget": float(budget),
                    "budget_met": all(point.budget_met for point in points),
                    "high": float(high[index]),
                    "low": float(low[index]),
                    "method": name,
                    "seeds": len(points),
                    "test_accuracy": float(mean[index]),
                    "test_cost": float(np.mean([point.test_cost for point in points])),
                }
            )
    return rows


def labelled_rows(sweep: Sweep, budgets: Sequence[float], seed: int, repeats: int = 1000) -> list[Row]:
    """Accuracy on the labelled images at every budget, with its 95 % interval; empty where there are none.

    The points are those that validation chose by agreement with the float network.
    """
    if LABELLED not in sweep.errors:
        return []
    draws, rows = resamples(len(sweep.errors[LABELLED]), repeats, seed), []
    for budget in budgets:
        weights, met = sweep.weights(budget)
        correct, cost = 1 - sweep.errors[LABELLED] @ weights, sweep.costs[LABELLED] @ weights
        low, high = interval(draws @ correct)
        rows.append(
            {
                "accuracy": float(correct.mean()),
                "budget": float(budget),
                "budget_met": met,
                "cost": float(cost.mean()),
                "high": float(high),
                "low": float(low),
                "method": sweep.name,
            }
        )
    return rows


def band_rows(found: Found, yardstick: Yardstick, draws: Draws) -> list[Row]:
    """Accuracy of every method over the budgets it reaches, with a band that holds at all of them at once."""
    rows, costs = [], yardstick.band
    for name, by_seed in found.items():
        errors = np.stack([method.band for method in by_seed])
        accuracy = 1 - errors.mean(axis=(0, 1))
        low, high = simultaneous_band(accuracy, 1 - draws.replicates(errors), SHARE)
        cheapest = max(method.cheapest for method in by_seed)
        for index in np.flatnonzero(costs >= cheapest - 1e-12):
            row = {"accuracy": accuracy[index], "cost": costs[index], "high": high[index], "low": low[index]}
            rows.append({**{key: float(value) for key, value in row.items()}, "method": name})
    return rows


def curve_rows(found: Found) -> list[Row]:
    """Accuracy and cost of every operating point on validation and test, by seed and rising validation cost."""
    return [row for by_seed in found.values() for seed, method in enumerate(by_seed) for row in _curve(method, seed)]


def _curve(method: Measured, seed: int) -> list[Row]:
    return [
        {
            "method": method.name,
            "lambda": value if method.kind == "lambda" else None,
            "threshold": value if method.kind == "threshold" else None,
            "split": split,
            "seed": seed,
            "accuracy": accuracy,
            "cost": cost,
        }
        for split, value, accuracy, cost in method.curve
    ]


def usage_rows(
    sweeps: Sequence[Sweep], budgets: Sequence[float], settings: Sequence[Setting], classes: Sequence[str]
) -> list[Row]:
    """Where the samples of each class exit under a policy, at every budget; its sweep and setting by rotation."""
    rows: list[Row] = []
    first, tree = sweeps[0], settings[0].tree
    if first.nodes is None or first.kind not in ("lambda", "point"):
        return rows
    for budget in budgets:
        table = np.zeros((len(classes), len(tree)))
        for sweep, setting in zip(sweeps, settings, strict=True):
            assert sweep.nodes is not None
            label, weights = setting.caches["test"].label, sweep.weights(budget)[0]
            table += usage(label, sweep.nodes["test"], weights, classes, len(tree))
        for index, node in np.argwhere(table > 0):
            count = table[index, node]
            rows.append(
                {
                    "budget": budget,
                    "class": classes[index],
                    "label": int(index),
                    "method": first.name,
                    "path": tree.name(int(node)),
                    "samples": float(count),
                    "share": float(count / table[index].sum()),
                }
            )
    return rows
