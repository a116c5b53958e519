"""Stage `evaluate`: every method's curve, budgets, intervals and usage, from the cache alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from quee.cache.read import FeatureCache, read_cache
from quee.errors import QueeError
from quee.evaluation.certification import certify
from quee.evaluation.curves import Floor, area
from quee.evaluation.draws import Draws
from quee.evaluation.drops import cost_intervals, cost_replicates
from quee.evaluation.measured import FLOAT, Measured, Yardstick, float_errors, measure
from quee.evaluation.quality import measured_variants, rank_correlation
from quee.evaluation.resplits import fit_policies, resplit
from quee.evaluation.summary import compare, resplit_summary
from quee.evaluation.tables import Row, band_rows, budget_rows, curve_rows, operating_rows, usage_rows
from quee.policies.base import Basis, Policy
from quee.policies.files import read_learned, read_predictors
from quee.policies.names import OURS
from quee.policies.plan import plan_of
from quee.policies.registry import all_sweeps, fitted_sweeps
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.work.io import atomic_path, write_json, write_table
from quee.work.percentages import impossible
from quee.work.progress import progress
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
    cache = _read(stage.input("features"))
    policies = _policies(stage, cache)
    certified = bool((cache.split == "certification").any())
    splits = ("validation", "test", *["certification"] * certified)
    setting = replace(Setting.of(cache, splits, experiment.policies, settings.points), policies=policies[0])
    first_step, other = experiment.policies.first_step, "marginal"
    if first_step == other:
        other = "rollout"
    floor, plan = Floor.of(setting), plan_of(setting)
    yardstick, reference = Yardstick.of(setting, settings.budgets, floor), float_errors(setting)
    variants, variant_curves = measured_variants(cache, experiment, plan, setting, yardstick)
    draws = Draws.of(len(setting.caches["test"]), settings.seeds, settings.bootstrap, settings.seed)
    found: dict[str, list[Measured]] = {}
    near: dict[str, list[np.ndarray]] = {}
    used: list[Row] = []
    ours: list[Sweep] = []

    def look(sweep: Sweep) -> None:
        found.setdefault(sweep.name, []).append(measure(sweep, yardstick))
        if reference is not None:
            near.setdefault(sweep.name, []).append(cost_replicates(sweep, reference, draws))

    # One sweep at a time, because a sweep holds every sample at every point.
    for sweep in all_sweeps(setting):
        look(sweep)
        used += usage_rows([sweep], settings.budgets, setting, cache.description["classes"])
        if certified and sweep.name in OURS:
            ours.append(sweep)
    for again in policies[1:]:
        for sweep in fitted_sweeps(replace(setting, policies=again)):
            look(sweep)
    alternative = routed_sweep("quee_plan", setting, plan, other)

    metrics = compare(found, yardstick, draws) | cost_intervals(near, draws)
    methods = metrics["methods"]
    metrics |= {
        "experiment": experiment.name,
        "first_step_auc": {
            first_step: found["quee_plan"][0].auc,
            other: area(alternative, yardstick.grid, floor),
        },
        "fp32_accuracy": methods.get(f"static_{FLOAT}", {}).get("accuracy"),
        "quality_rank_correlation": rank_correlation(variants),
        "seeds": settings.seeds,
        "test_samples": len(draws.samples[0]),
    }
    if certified:
        limits = settings.certification
        metrics["certification"] = certify(
            setting, ours, limits.accuracy_losses, settings.budgets, limits.delta, settings.seed
        )
    curve = pa.Table.from_pylist(curve_rows(found), schema=CURVE)
    tables = {
        "bands": band_rows(found, yardstick, draws),
        "budgets": budget_rows(found, yardstick, draws),
        "operating_points": operating_rows(found, draws, settings.seed),
        "quality": variants,
        "quality_curve": variant_curves,
        "resplits": [],
        "usage": used,
    }
    with progress("resplits", settings.resplits) as bar:
        for seed in range(settings.resplits):
            tables["resplits"] += resplit(cache, experiment, seed)
            bar.advance()
    if tables["resplits"]:
        metrics["resplits"] = resplit_summary(tables["resplits"])
    if faults := list(impossible({**metrics, "budgets": tables["budgets"], "bands": tables["bands"]})):
        raise QueeError(f"evaluation gave numbers that cannot be: {'; '.join(faults[:3])}")

    write_table(stage.out / "curve.parquet", curve)
    with atomic_path(stage.out / "curve.csv") as aside:
        csv.write_csv(curve.filter(pa.compute.equal(curve["split"], "test")), aside)
    for name, rows in tables.items():
        if rows:
            write_table(stage.out / f"{name}.parquet", pa.Table.from_pylist(rows))
    write_json(stage.out / "metrics.json", metrics)


def _read(features: Path) -> FeatureCache:
    """The cache copied to memory of its own, so that the memory of reading, five times as much, is freed. Equal strings of
    splits are shared, because a string per row would keep all pages occupied."""
    cache = read_cache(features, log_probs=True)
    names, codes = np.unique(cache.split, return_inverse=True)
    owned = replace(cache.select(np.arange(len(cache))), split=names[codes])
    del cache
    pa.default_memory_pool().release_unused()
    return owned


def _policies(stage: Stage, cache: FeatureCache) -> list[dict[str, Policy]]:
    """The stages' own policies, and targets, predictors and policies fitted again under the other seeds.

    It is called first, because fitting takes most memory.
    """
    basis = Basis(cache.tree, cache.description, read_predictors(stage.input("predictors")))
    found = [read_learned(stage.input("policies"), basis)]
    seeds = stage.experiment.evaluate.seeds
    with progress("seeds", seeds - 1) as bar:
        for seed in range(1, seeds):
            found.append(fit_policies(cache, stage.experiment, seed)[1])
            bar.advance()
    return found


if __name__ == "__main__":
    main(run)
