"""Stage `evaluate`: every method's curve, budgets, intervals and usage, from the cache alone."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
from pyarrow import csv

from quee.cache import FeatureCache, read_cache
from quee.evaluation.curves import (
    Floor,
    area,
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
from quee.evaluation.methods import all_sweeps, constant_floor, marginal_first, routed_sweep
from quee.evaluation.resplits import resplit
from quee.evaluation.sweep import Setting, Sweep
from quee.experiment import Evaluate
from quee.io import atomic_path, read_tensors, write_json, write_table
from quee.policies import Costs, FittedQ, Plan
from quee.predictors import Predictors
from quee.progress import progress
from tasks.stage import Stage, main

REFERENCE = "static_hull"
OURS = ("quee_plan", "quee_fitted_q")
RIVALS = ("static_hull", "confidence_hull", "random_routing")
BAND_POINTS = 40


def run(stage: Stage) -> None:
    """Sweep λ and thresholds over the cached tree, choose operating points on validation, report them on test."""
    experiment, settings = stage.experiment, stage.experiment.evaluate
    cache = read_cache(stage.input("features"))
    plan, fitted = _policies(stage, cache)
    caches = {split: cache.of(split) for split in ("validation", "test")}
    setting = Setting(caches, Costs.of(cache.tree, cache.description), settings.points)
    sweeps = list(all_sweeps(setting, plan, fitted, experiment.policies.first_step))
    other = "marginal" if experiment.policies.first_step == "rollout" else "rollout"
    alternative = routed_sweep("quee_plan", setting, plan, plan.costs, other, marginal_first(setting, plan.costs))

    floor = constant_floor(setting)
    grid = budget_grid(setting.costs.static.min(), setting.costs.static.max())
    metrics, tables = _compare(sweeps, settings, floor, grid)
    first_step = {
        experiment.policies.first_step: metrics["methods"]["quee_plan"]["auc"],
        other: area(alternative, grid, floor),
    }
    references = cache.description["reference_precisions"]
    accuracy = metrics["methods"].get("static_fp32", metrics["methods"].get("static_w8a8", {})).get("accuracy")
    metrics |= {"experiment": experiment.name, "first_step_auc": first_step, "fp32_accuracy": accuracy}
    assert "fp32" not in references or accuracy is not None

    _write_curves(stage, sweeps, tables)
    write_table(stage.out / "usage.parquet", _usage(sweeps, settings, setting, cache.description["classes"]))
    rows = []
    with progress("resplits", settings.resplits) as bar:
        for seed in range(settings.resplits):
            rows += resplit(cache, experiment, seed)
            bar.advance()
    if rows:
        write_table(stage.out / "resplits.parquet", pa.Table.from_pylist(rows))
        metrics["resplits"] = _summary(rows)
    write_json(stage.out / "metrics.json", metrics)


def _policies(stage: Stage, cache: FeatureCache) -> tuple[Plan, FittedQ]:
    predictors = Predictors.from_arrays(read_tensors(stage.input("predictors") / "predictors.safetensors"))
    spent = [predictors.bitflops(gate) for gate in range(1, cache.tree.segments)]
    plan = Plan(cache.tree, Costs.of(cache.tree, cache.description, spent), predictors)
    return plan, FittedQ.from_arrays(plan, read_tensors(stage.input("policies") / "fitted_q.safetensors"))


def _compare(sweeps: list[Sweep], settings: Evaluate, floor: Floor, grid: np.ndarray):  # type: ignore[no-untyped-def]
    """Metrics by method, and the rows of `operating_points` and `bands`."""
    by_name = {sweep.name: sweep for sweep in sweeps}
    budgets = np.array(settings.budgets)
    samples = len(sweeps[0].errors["test"])
    weights = resamples(samples, settings.bootstrap, settings.seed)
    band_grid = budget_grid(grid[0], grid[-1], BAND_POINTS)
    reference = by_name.get("static_fp32", by_name[REFERENCE])
    float_accuracy = float(1 - reference.errors["test"].mean(axis=0).min())
    baseline = errors_at(by_name[REFERENCE], budgets, floor)
    methods, closed, difference, points, bands = {}, {}, {}, [], []
    over_grid = {name: errors_at(sweep, grid, floor).mean(axis=1) for name, sweep in by_name.items()}  # (S,)
    auc = {name: float(1 - errors.mean()) for name, errors in over_grid.items()}
    for name, sweep in by_name.items():
        at = [operating_point(sweep, float(budget)) for budget in budgets]
        mixed = np.stack([sweep.errors["test"] @ sweep.weights(b)[0] for b in budgets], axis=1)
        low, high = interval(1 - weights @ mixed)
        points += [
            {**asdict(p), "high": float(h), "low": float(lo), "seed": 0} for p, lo, h in zip(at, low, high, strict=True)
        ]
        methods[name] = {
            "accuracy": float(1 - sweep.errors["test"].mean(axis=0)[sweep.order[-1]]),
            "accuracy_at_budget": {f"{p.budget:g}": p.test_accuracy for p in at},
            "auc": auc[name],
            "budget_met": {f"{p.budget:g}": p.budget_met for p in at},
            "cost_at_budget": {f"{p.budget:g}": p.test_cost for p in at},
            "cost_at_drop_0.5": cost_at_drop(sweep, float_accuracy, 0.5),
            "cost_at_drop_1.0": cost_at_drop(sweep, float_accuracy, 1.0),
        }
        closed[name] = gap_closed(auc[name], auc[REFERENCE], auc["oracle"])
        gain = baseline - errors_at(sweep, budgets, floor)
        gain_low, gain_high = interval(weights @ gain)
        difference[name] = {
            f"{b:g}": {"high": float(h), "low": float(lo), "mean": float(m)}
            for b, m, lo, h in zip(budgets, gain.mean(axis=0), gain_low, gain_high, strict=True)
        }
        errors = errors_at(sweep, band_grid, floor)
        band_low, band_high = simultaneous_band(errors, weights)
        reached = band_grid >= sweep.validation_cost[0] - 1e-12
        for cost, mean, lo, h in zip(
            band_grid[reached], 1 - errors.mean(axis=0)[reached], band_low[reached], band_high[reached], strict=True
        ):
            bands.append({"accuracy": mean, "cost": cost, "high": h, "low": lo, "method": name})
    gains = {}
    for ours in OURS:
        for rival in RIVALS:
            gain = over_grid[rival] - over_grid[ours]
            gain_low, gain_high = interval(weights @ gain)
            gains[f"gain.{ours}.{rival}"] = {
                "high": float(gain_high),
                "low": float(gain_low),
                "mean": float(gain.mean()),
            }
    metrics = {
        "difference_vs_static_hull": difference,
        "gains": gains,
        "methods": methods,
        "oracle_gap_closed": closed,
    }
    return metrics, {"operating_points": points, "bands": bands}


def _write_curves(stage: Stage, sweeps: list[Sweep], tables: dict[str, list[dict[str, float]]]) -> None:
    rows = []
    for sweep in sweeps:
        for split in ("validation", "test"):
            cost, error = sweep.costs[split].mean(axis=0), sweep.errors[split].mean(axis=0)
            for point in sweep.order:
                value = float(sweep.values[point])
                value_or_none = value if np.isfinite(value) else None
                rows.append(
                    {
                        "method": sweep.name,
                        "lambda": value_or_none if sweep.kind == "lambda" else None,
                        "threshold": value_or_none if sweep.kind == "threshold" else None,
                        "split": split,
                        "seed": 0,
                        "accuracy": float(1 - error[point]),
                        "cost": float(cost[point]),
                    }
                )
    number, text = pa.float64(), pa.string()
    fields = [("method", text), ("lambda", number), ("threshold", number), ("split", text)]
    schema = pa.schema([*fields, ("seed", pa.int32()), ("accuracy", number), ("cost", number)])
    curve = pa.Table.from_pylist(rows, schema=schema)
    write_table(stage.out / "curve.parquet", curve)
    with atomic_path(stage.out / "curve.csv") as aside:
        csv.write_csv(curve.filter(pa.array([row["split"] == "test" for row in rows])), aside)
    for name, table in tables.items():
        write_table(stage.out / f"{name}.parquet", pa.Table.from_pylist(table))


def _usage(sweeps: list[Sweep], settings: Evaluate, setting: Setting, classes: list[str]) -> pa.Table:
    """Where each class leaves, at every budget, for the policies."""
    rows = []
    label, tree = setting.caches["test"].label, setting.tree
    for sweep in sweeps:
        if sweep.nodes is None or sweep.kind != "lambda":
            continue
        for budget in settings.budgets:
            table = usage(label, sweep.nodes["test"], sweep.weights(budget)[0], classes, len(tree))
            for index, name in enumerate(classes):
                for node in np.flatnonzero(table[index] > 0):
                    share = table[index, node] / table[index].sum()
                    found = {"budget": budget, "class": name, "label": index, "method": sweep.name}
                    rows.append(
                        {
                            **found,
                            "path": tree.name(int(node)),
                            "samples": float(table[index, node]),
                            "share": float(share),
                        }
                    )
    return pa.Table.from_pylist(rows)


def _summary(rows: list[dict[str, float | int | str]]) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval (normal, over repetitions) of each method's auc, and QuEE's gains over the baselines."""
    found: dict[str, np.ndarray] = {}
    for row in rows:
        found.setdefault(str(row["method"]), np.array([]))
        found[str(row["method"])] = np.append(found[str(row["method"])], float(row["auc"]))
    result = {f"auc.{name}": _mean_interval(values) for name, values in found.items()}
    for ours in OURS:
        for other in RIVALS:
            result[f"gain.{ours}.{other}"] = _mean_interval(found[ours] - found[other])
    return result


def _mean_interval(values: np.ndarray) -> dict[str, float]:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"high": float(values.mean() + half), "low": float(values.mean() - half), "mean": float(values.mean())}


if __name__ == "__main__":
    main("evaluate", run)
