"""Metrics of an evaluation, by method: accuracies, costs, differences, gains."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from quee.evaluation.curves import gap_closed
from quee.evaluation.draws import Draws, paired
from quee.evaluation.measured import Measured, Yardstick
from quee.evaluation.near import DROPS
from quee.intervals import NORMAL, half_width
from quee.policies.names import BOUND, OURS, REFERENCE, rivals, shown
from quee.work.percentages import DIFFERENCE, SHARE

Found = Mapping[str, Sequence[Measured]]
"""By method, one measurement per seed; methods without a seed have one."""


def compare(found: Found, yardstick: Yardstick, draws: Draws) -> dict[str, Any]:
    """Metrics by method, differences to the static hull and of ours to every rival, gains, and the gap closed.

    Numbers of methods with seeds are means over seeds; intervals are over samples and seeds.
    """
    at_budgets = {name: np.stack([m.errors for m in by_seed]) for name, by_seed in found.items()}
    overall = {name: np.stack([m.overall[:, None] for m in by_seed]) for name, by_seed in found.items()}
    auc = {name: float(1 - errors.mean()) for name, errors in overall.items()}
    keys = [f"{budget:g}" for budget in yardstick.budgets]

    def differences(name: str, rival: str) -> dict[str, dict[str, float]]:
        return dict(zip(keys, paired(at_budgets[rival] - at_budgets[name], draws), strict=True))

    ours = [name for name in OURS if name in found]
    against = {name: rivals(found, name) for name in ours}
    return {
        "behind_best": behind_best(found, yardstick, draws),
        "difference_vs_static_hull": {name: differences(name, REFERENCE) for name in found},
        "differences": {name: {rival: differences(name, rival) for rival in against[name]} for name in ours},
        "gains": {
            f"gain.{name}.{rival}": paired(overall[rival] - overall[name], draws)[0]
            for name in ours
            for rival in against[name]
        },
        "methods": {name: _method(by_seed, keys, auc[name]) for name, by_seed in found.items()},
        "oracle_gap_closed": {name: gap_closed(value, auc[REFERENCE], auc[BOUND]) for name, value in auc.items()},
    }


def behind_best(found: Found, yardstick: Yardstick, draws: Draws) -> dict[str, dict[str, dict[str, Any]]]:
    """Difference of each method of short tables to the best of them in test accuracy, by budget and in `auc`.

    The best is the method of highest mean accuracy among those that meet the budget; bounds do not compete. Each entry
    has `best`, the name of the best, and `mean`, `low`, `high`: the paired difference with its 95 % interval. A method
    whose `low` is not above 0 cannot be told from the best on this many test samples.
    """
    names = [name for name in shown(found) if name != BOUND]
    columns: dict[str, tuple[dict[str, np.ndarray], list[str]]] = {
        "auc": ({name: np.stack([m.overall[:, None] for m in found[name]]) for name in names}, names)
    }
    for index, budget in enumerate(yardstick.budgets):
        errors = {name: np.stack([m.mixed[:, index : index + 1] for m in found[name]]) for name in names}
        meets = [name for name in names if all(m.points[index].budget_met for m in found[name])]
        columns[f"{budget:g}"] = (errors, meets)
    result: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    for key, (errors, candidates) in columns.items():
        if not candidates:
            continue
        best = min(candidates, key=lambda name: float(errors[name].mean()))
        for name in candidates:
            difference = paired(errors[name] - errors[best], draws)[0]
            result[name][key] = {"best": best, **{side: difference[side] for side in ("high", "low", "mean")}}
    return result


def _method(by_seed: Sequence[Measured], keys: Sequence[str], auc: float) -> dict[str, Any]:
    def mean(index: int, name: str) -> float:
        return float(np.mean([getattr(m.points[index], name) for m in by_seed]))

    return {
        "accuracy": float(np.mean([m.dearest_accuracy for m in by_seed])),
        "accuracy_at_budget": {key: mean(i, "test_accuracy") for i, key in enumerate(keys)},
        "auc": auc,
        "auc_by_seed": [m.auc for m in by_seed],
        "budget_met": {key: all(m.points[i].budget_met for m in by_seed) for i, key in enumerate(keys)},
        "cost_at_budget": {key: mean(i, "test_cost") for i, key in enumerate(keys)},
        **{f"cost_at_drop_{drop}": _reached([m.drops[drop] for m in by_seed]) for drop in DROPS},
    }


def _reached(costs: Sequence[float | None]) -> float | None:
    """Mean over seeds; None where any seed never reaches the accuracy."""
    known = [cost for cost in costs if cost is not None]
    return float(np.mean(known)) if len(known) == len(costs) else None


def resplit_summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval (normal, over repetitions) of each method's auc, and of our gains over the others."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(str(row["method"]), []).append(float(row["auc"]))
    found = {name: np.array(column) for name, column in values.items()}
    result = {f"auc.{name}": mean_interval(column, SHARE) for name, column in found.items()}
    for ours in (name for name in OURS if name in found):
        for rival in rivals(found):
            result[f"gain.{ours}.{rival}"] = mean_interval(found[ours] - found[rival], DIFFERENCE)
    return result


def mean_interval(values: np.ndarray, valid: tuple[float, float]) -> dict[str, float]:
    """Mean of values (R,) with its 95 % interval, cut at the ends of their `valid` range."""
    half = half_width(values, NORMAL) if len(values) > 1 else 0.0
    mean = float(values.mean())
    return {"high": min(float(mean + half), valid[1]), "low": max(float(mean - half), valid[0]), "mean": mean}
