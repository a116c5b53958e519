"""Stage `evaluate`: every method's curve, budgets, intervals and usage, from the cache alone."""

import pyarrow as pa
from pyarrow import csv

from quee.cache import FeatureCache, read_cache
from quee.evaluation.certification import certify
from quee.evaluation.curves import area
from quee.evaluation.draws import Draws
from quee.evaluation.measured import Measured, Yardstick, measure
from quee.evaluation.methods import all_sweeps, constant_floor, fitted_sweeps, marginal_first, routed_sweep
from quee.evaluation.quality import measured_variants, rank_correlation
from quee.evaluation.resplits import fit_quee, resplit
from quee.evaluation.summary import compare, resplit_summary
from quee.evaluation.sweep import Setting, Sweep
from quee.evaluation.tables import band_rows, budget_rows, curve_rows, operating_rows, usage_rows
from quee.experiment import Experiment
from quee.io import atomic_path, read_tensors, write_json, write_table
from quee.methods import OURS
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
    first_step, other = experiment.policies.first_step, "marginal"
    if first_step == other:
        other = "rollout"
    floor = constant_floor(setting)
    yardstick = Yardstick.of(setting, settings.budgets, floor)
    found: dict[str, list[Measured]] = {}
    routed: list[Sweep] = []
    for sweep in all_sweeps(setting, plan, fitted, first_step):
        found[sweep.name] = [measure(sweep, yardstick)]
        if sweep.nodes is not None and sweep.kind == "lambda":
            routed.append(sweep)
    _add_seeds(found, cache, experiment, setting, yardstick)
    alternative = routed_sweep("quee_plan", setting, plan, plan.costs, other, marginal_first(setting, plan.costs))
    variants, variant_curves = measured_variants(cache, experiment, plan, setting, yardstick)

    draws = Draws.of(len(caches["test"]), settings.seeds, settings.bootstrap, settings.seed)
    metrics = compare(found, yardstick, draws)
    methods = metrics["methods"]
    metrics |= {
        "experiment": experiment.name,
        "first_step_auc": {
            first_step: found["quee_plan"][0].auc,
            other: area(alternative, yardstick.grid, floor),
        },
        "fp32_accuracy": methods.get("static_fp32", methods.get("static_w8a8", {})).get("accuracy"),
        "quality_rank_correlation": rank_correlation(variants),
        "seeds": settings.seeds,
    }
    if certified:
        ours = [sweep for sweep in routed if sweep.name in OURS]
        limits = settings.certification
        metrics["certification"] = certify(
            setting, ours, limits.accuracy_losses, settings.budgets, limits.delta, settings.seed
        )
    curve = pa.Table.from_pylist(curve_rows(found), schema=CURVE)
    tables = {
        "bands": band_rows(found, yardstick, draws),
        "budgets": budget_rows(found, yardstick, draws),
        "operating_points": operating_rows(found, yardstick, draws, settings.seed),
        "quality": variants,
        "quality_curve": variant_curves,
        "resplits": [],
        "usage": usage_rows(routed, settings.budgets, setting, cache.description["classes"]),
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


def _add_seeds(
    found: dict[str, list[Measured]],
    cache: FeatureCache,
    experiment: Experiment,
    setting: Setting,
    yardstick: Yardstick,
) -> None:
    """Fit targets, predictors and policies again under the other seeds, and measure what depends on them."""
    with progress("seeds", experiment.evaluate.seeds - 1) as bar:
        for seed in range(1, experiment.evaluate.seeds):
            plan, fitted = fit_quee(cache, experiment, seed)
            for sweep in fitted_sweeps(setting, plan, fitted, experiment.policies.first_step):
                found[sweep.name].append(measure(sweep, yardstick))
            bar.advance()


def _policies(stage: Stage, cache: FeatureCache) -> tuple[Plan, FittedQ]:
    predictors = Predictors.from_arrays(read_tensors(stage.input("predictors") / "predictors.safetensors"))
    plan = Plan.of(cache.tree, cache.description, predictors)
    return plan, FittedQ.from_arrays(plan, read_tensors(stage.input("policies") / "fitted_q.safetensors"))


if __name__ == "__main__":
    main("evaluate", run)
