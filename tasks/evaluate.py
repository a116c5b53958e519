"""Stage `evaluate`: every method's curve, budgets, intervals and usage, from the cache alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from pyarrow import csv

from quee.cache.read import FeatureCache
from quee.errors import QueeError
from quee.evaluation.certification import certify
from quee.evaluation.draws import Draws
from quee.evaluation.drops import cost_intervals, cost_replicates
from quee.evaluation.folds import Rotations
from quee.evaluation.formats import FORMAT
from quee.evaluation.measured import Measured
from quee.evaluation.quality import Other, measured_variants, others, rank_correlation
from quee.evaluation.repeats import Held, divide_again, fit_again, fit_ensembles, fit_others, forget, seconds
from quee.evaluation.summary import compare, resplit_summary
from quee.evaluation.tables import (
    Row,
    band_rows,
    budget_rows,
    curve_rows,
    labelled_rows,
    operating_rows,
    usage_rows,
)
from quee.measure import LABELLED, measure_of
from quee.policies.base import Basis, Router
from quee.policies.files import read_learned, read_predictors
from quee.policies.names import OURS
from quee.policies.networks import Predictors
from quee.policies.plan import plan_of
from quee.policies.registry import all_sweeps, fitted_sweeps
from quee.policies.sweep import Setting, Sweep, by_price, routed_sweep
from quee.precision import FLOAT
from quee.work.io import atomic_path, write_json, write_table
from quee.work.percentages import impossible
from quee.work.threads import side_by_side
from tasks.scale import read_scale
from tasks.stage import Stage, main

CURVE = pa.schema(
    [
        *((name, pa.string() if name in ("method", "split") else pa.float64())
          for name in ("method", "lambda", "threshold", "split")),
        ("seed", pa.int32()), ("accuracy", pa.float64()), ("cost", pa.float64()),
    ]
)  # fmt: skip


def run(stage: Stage) -> None:
    """Sweep λ and thresholds over the cached tree, choose operating points on validation, report them on test.

    With folds, each rotation is fitted, chosen and tested by itself, and numbers are over the test samples of all rotations.
    Guarantees are those of the first rotation, whose policies the bundle holds.
    """
    experiment, settings = stage.experiment, stage.experiment.evaluate
    features, prepare, targets = (str(stage.input(name).resolve()) for name in ("features", "prepare", "targets"))
    held = Held(experiment, features, prepare, targets)
    policies, worse, resplits, caches = _fitted_again(stage, held)
    cache = caches[0]
    certified = bool((cache.split == "certification").any())
    rotations = Rotations([_setting(stage, own, certified and own is cache) for own in caches], settings.budgets)
    yardstick, reference = rotations.yardsticks[0], rotations.float_errors
    fitted = _fitted(rotations, policies[0])
    first_step, other = experiment.policies.first_step, "marginal"
    if first_step == other:
        other = "rollout"
    plans = [plan_of(setting) for setting in fitted]
    variants, variant_curves = measured_variants(caches, experiment, plans, rotations, worse)
    groups = rotations.groups
    draws = Draws.of(sum(rotations.sizes), settings.seeds, settings.bootstrap, settings.seed, groups)
    found: dict[str, list[Measured]] = {}
    near: dict[str, list[np.ndarray]] = {}
    used: list[Row] = []
    ours: list[Sweep] = []
    beside: list[Row] = []

    def look(sweeps: Sequence[Sweep]) -> None:
        name = sweeps[0].name
        found.setdefault(name, []).append(rotations.measure(sweeps))
        if reference is not None:
            near.setdefault(name, []).append(cost_replicates(rotations.whole(sweeps), reference, draws))

    # One method at a time, because a sweep holds every sample at every point.
    for sweeps in side_by_side(map(all_sweeps, fitted)):
        look(sweeps)
        used += usage_rows(sweeps, settings.budgets, fitted, cache.description["classes"])
        beside.extend(labelled_rows(sweeps[0], settings.budgets, settings.seed))
        if certified and sweeps[0].name in OURS:
            ours.append(by_price(sweeps[0]))
    again = [setting for own in policies[1:] for setting in _fitted(rotations, own)]
    for every in side_by_side(map(fitted_sweeps, again)):
        for at in range(0, len(every), len(rotations)):
            look(every[at : at + len(rotations)])
    alternative = [routed_sweep("quee_plan", s, plan, other) for s, plan in zip(fitted, plans, strict=True)]

    metrics = compare(found, yardstick, draws) | cost_intervals(near, draws)
    methods = metrics["methods"]
    metrics |= {
        "exits": rotations.exits,
        "experiment": experiment.name,
        "first_step_auc": {
            first_step: found["quee_plan"][0].auc,
            other: rotations.area(alternative),
        },
        "floor_accuracy": rotations.floor_accuracy,
        "format": FORMAT,
        "fp32_accuracy": methods.get(f"static_{FLOAT}", {}).get("accuracy"),
        "quality_rank_correlation": rank_correlation(variants),
        "seeds": settings.seeds,
        "test_samples": len(draws.samples[0]),
        **measure_of(cache.description).facts,
    }
    if beside:
        metrics["labelled_samples"] = int((cache.split == LABELLED).sum())
    if len(caches) > 1:
        metrics["folds"] = len(caches)
    if groups is not None:
        metrics["test_groups"] = len(np.unique(groups))
    if certified:
        limits = settings.certification
        metrics["certification"] = certify(
            fitted[0], ours, limits.accuracy_losses, settings.budgets, limits.delta, settings.seed
        )
    curve = pa.Table.from_pylist(curve_rows(found), schema=CURVE)
    tables = {
        "bands": band_rows(found, yardstick, draws),
        LABELLED: beside,
        "budgets": budget_rows(found, yardstick, draws),
        "operating_points": operating_rows(
            found, draws, settings.seed, rotations.settings[0].caches["validation"].group
        ),
        "quality": variants,
        "quality_curve": variant_curves,
        "resplits": resplits,
        "usage": used,
    }
    if resplits:
        metrics["resplits"] = resplit_summary(resplits)
    if faults := list(impossible({**metrics, "budgets": tables["budgets"], "bands": tables["bands"]})):
        raise QueeError(f"evaluation gave numbers that cannot be: {'; '.join(faults[:3])}")

    write_table(stage.out / "curve.parquet", curve)
    with atomic_path(stage.out / "curve.csv") as aside:
        csv.write_csv(curve.filter(pa.compute.equal(curve["split"], "test")), aside)
    for name, rows in tables.items():
        if rows:
            write_table(stage.out / f"{name}.parquet", pa.Table.from_pylist(rows))
    write_json(stage.out / "metrics.json", metrics)


def _setting(stage: Stage, cache: FeatureCache, certified: bool) -> Setting:
    beside = (LABELLED,) if (cache.split == LABELLED).any() else ()
    splits = ("validation", "test", *["certification"] * certified, *beside)
    return Setting.of(cache, splits, stage.experiment.policies, stage.experiment.evaluate.points)


def _fitted(rotations: Rotations, policies: Sequence[dict[str, Router]]) -> list[Setting]:
    """The settings with the policies of one seed, by rotation."""
    return [replace(setting, policies=own) for setting, own in zip(rotations.settings, policies, strict=True)]


def _fitted_again(
    stage: Stage, held: Held
) -> tuple[list[list[dict[str, Router]]], list[dict[Other, Predictors]], list[Row], list[FeatureCache]]:
    """Policies by seed and rotation: the stages' own, and those fitted again for the others; by rotation the predictors of
    other quality; the rows of re-divisions; and the caches of the rotations.

    It is called first, because fitting takes most memory.
    """
    settings, rotations, own = stage.experiment.evaluate, len(held.splits()), (0, 0)
    every = [(seed, rotation) for rotation in range(rotations) for seed in range(settings.seeds)]
    scale = read_scale()
    store = scale.store(stage)
    fits = [fit for fit in every if fit != own]
    lanes = scale.lanes_for(seconds(held.own_heads(), len(fits) + rotations + settings.resplits))
    held = fit_ensembles(held, rotations, store, lanes)
    caches = [held.rotation(number) for number in range(rotations)]
    cache, wanted = caches[0], others(stage.experiment, caches)
    found = fit_again(held, fits, store, lanes, caches)
    basis = Basis(cache.tree, cache.description, read_predictors(stage.input("predictors")))
    found[own] = read_learned(stage.input("policies"), basis)
    worse = fit_others(held, wanted, rotations, store, lanes)
    rows = divide_again(held, settings.resplits, store, lanes)
    forget()
    policies = [[found[seed, rotation] for rotation in range(rotations)] for seed in range(settings.seeds)]
    return policies, worse, rows, caches


if __name__ == "__main__":
    main(run)
