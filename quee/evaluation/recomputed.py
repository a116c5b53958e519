"""`auc` of results of format 1 (`quee.evaluation.formats`), computed anew from their curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quee.evaluation.curves import AUC_BUDGETS, gap_closed, share_above_floor
from quee.evaluation.formats import EARLIER, FORMAT, comparable
from quee.policies.names import BOUND, REFERENCE

Row = Mapping[str, Any]


def recomputed(metrics: Mapping[str, Any], curve: Sequence[Row], static: np.ndarray) -> dict[str, Any]:
    """The metrics of format 1 with `auc` as it is now, from the rows of `curve.parquet` and `static`, the nodes' costs (N,).

    It is the same number that format 2 holds, except with folds, whose curve has a point per budget: then to a hundredth of
    a point. Gains over the tree's own budgets are kept under `EARLIER`.
    """
    found = comparable(metrics)
    if metrics.get("format", 1) == FORMAT:
        return found
    by_seed = _curves(curve)
    floor = _floor(metrics, by_seed, static)
    if floor is None:
        return found
    areas: dict[str, list[float]] = {}
    for (method, _), (costs, accuracies) in sorted(by_seed.items()):
        areas.setdefault(method, []).append(area_of(costs, accuracies, floor))
    for name, own in areas.items():
        found["methods"].setdefault(name, {}).update(auc=float(np.mean(own)), auc_by_seed=own)
    auc = {name: float(np.mean(own)) for name, own in areas.items()}
    if REFERENCE in auc and BOUND in auc:
        found["oracle_gap_closed"] = {n: gap_closed(value, auc[REFERENCE], auc[BOUND]) for n, value in auc.items()}
    return {**found, "floor_accuracy": floor, EARLIER: {k: metrics[k] for k in ("gains", "resplits") if k in metrics}}


def area_of(costs: np.ndarray, accuracies: np.ndarray, floor: float, budgets: np.ndarray = AUC_BUDGETS) -> float:
    """`auc` of a curve: test accuracies (P,) over rising validation costs (P,), mixed with a floor of accuracy `floor`."""
    share = share_above_floor(budgets, costs[0])
    return float((share * np.interp(budgets, costs, accuracies) + (1 - share) * floor).mean())


def _curves(curve: Sequence[Row]) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """By method and seed: costs on validation and accuracies on test (P,), by rising validation cost."""
    columns: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in curve:  # its rows are in the order of validation cost on both splits
        by_split = columns.setdefault((row["method"], row["seed"] or 0), {"validation": [], "test": []})
        by_split[row["split"]].append(row["cost"] if row["split"] == "validation" else row["accuracy"])
    return {key: (np.array(found["validation"]), np.array(found["test"])) for key, found in columns.items()}


def _floor(
    metrics: Mapping[str, Any], by_seed: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]], static: np.ndarray
) -> float | None:
    """The floor's accuracy, which format 1 does not hold but which its `auc` is linear in; None where no method tells it."""
    budgets = np.geomspace(static.min(), static.max(), len(AUC_BUDGETS))
    shares = {key: float(1 - share_above_floor(budgets, costs[0]).mean()) for key, (costs, _) in by_seed.items()}
    method, seed = max(shares, key=lambda key: shares[key])  # the one that the floor serves most tells it best
    if not shares[method, seed] > 0:
        return None
    own = metrics["methods"][method]["auc_by_seed"][seed]
    return float((own - area_of(*by_seed[method, seed], 0.0, budgets)) / shares[method, seed])
