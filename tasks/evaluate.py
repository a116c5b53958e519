"""Stage `evaluate`: every method's curve, budgets, intervals and usage, from the cache alone."""

import pyarrow as pa
from pyarrow import csv

from quee.cache import FeatureCache, read_cache
from quee.evaluation.certification import certify
from quee.evaluation.curves import area, budget_grid
from quee.evaluation.methods import all_sweeps, constant_floor, marginal_first, routed_sweep
from quee.evaluation.resplits import resplit
from quee.evaluation.summary import OURS, band_rows, compare, curve_rows, operating_rows, resplit_summary, usage_rows
from quee.evaluation.sweep import Setting
from quee.io import atomic_path, read_tensors, write_json, write_table
from quee.policies import Costs, FittedQ, Plan
from quee.predictors import Predictors
from quee.progress import progress
from tasks.stage import Stage, main

CURVE = pa.schema(
    [
        *((name, pa.string() if name in ("method", "split") else pa.float64())
          for name in ("method", "lambda", "threshold", "split")),
        ("seed", pa.int32()), ("accuracy", pa.float64()), ("cost", pa.float64()),
    ]
)  # fmt: skip


def run(stage: Stage) -> None:
    """Sweep λ and thresholds over the cached tree, choose operating points on validation, report them on test."""
    experiment, settings = stage.experiment, stage.experiment.evaluate
    cache = read_cache(stage.input("features"))
    plan, fitted = _policies(stage, cache)
    certified = bool((cache.split == "certification").any())
    caches = {split: cache.of(split) for split in ("validation", "test", *["certification"] * certified)}
    setting = Setting(caches, Costs.of(cache.tree, cache.description), settings.points, cache.of("predictor"))
    sweeps = list(all_sweeps(setting, plan, fitted, experiment.policies.first_step))
    other = "marginal" if experiment.policies.first_step == "rollout" else "rollout"
    alternative = routed_sweep("quee_plan", setting, plan, plan.costs, other, marginal_first(setting, plan.costs))

    floor = constant_floor(setting)
    grid = budget_grid(setting.costs.static.min(), setting.costs.static.max())
    metrics = compare(sweeps, settings, floor, grid)
    methods = metrics["methods"]
    metrics |= {
        "experiment": experiment.name,
        "first_step_auc": {
            experiment.policies.first_step: methods["quee_plan"]["auc"],
            other: area(alternative, grid, floor),
        },
        "fp32_accuracy": methods.get("static_fp32", methods.get("static_w8a8", {})).get("accuracy"),
    }
    if certified:
        ours = [sweep for sweep in sweeps if sweep.name in OURS]
        limits = settings.certification
        metrics["certification"] = certify(
            setting, ours, limits.accuracy_losses, settings.budgets, limits.delta, settings.seed
        )
    curve = pa.Table.from_pylist(curve_rows(sweeps), schema=CURVE)
    tables = {
        "bands": band_rows(sweeps, settings, floor, grid),
        "operating_points": operating_rows(sweeps, settings),
        "resplits": [],
        "usage": usage_rows(sweeps, settings, setting, cache.description["classes"]),
    }
    with progress("resplits", settings.resplits) as bar:
        for seed in range(settings.resplits):
            tables["resplits"] += resplit(cache, experiment, seed)
            bar.advance()
    if tables["resplits"]:
        metrics["resplits"] = resplit_summary(tables["resplits"])

    write_table(stage.out / "curve.parquet", curve)
    with atomic_path(stage.out / "curve.csv") as aside:
        csv.write_csv(curve.filter(pa.compute.equal(curve["split"], "test")), aside)
    for name, rows in tables.items():
        if rows:
            write_table(stage.out / f"{name}.parquet", pa.Table.from_pylist(rows))
    write_json(stage.out / "metrics.json", metrics)


def _policies(stage: Stage, cache: FeatureCache) -> tuple[Plan, FittedQ]:
    predictors = Predictors.from_arrays(read_tensors(stage.input("predictors") / "predictors.safetensors"))
    spent = [predictors.bitflops(gate) for gate in range(1, cache.tree.segments)]
    plan = Plan(cache.tree, Costs.of(cache.tree, cache.description, spent), predictors)
    return plan, FittedQ.from_arrays(plan, read_tensors(stage.input("policies") / "fitted_q.safetensors"))


if __name__ == "__main__":
    main("evaluate", run)
