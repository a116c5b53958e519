"""Repetitions on random re-divisions of the held-out rows: targets, predictors and policies fitted anew each time."""

from collections.abc import Iterator

import numpy as np

from quee.baselines import random_routing
from quee.baselines.confidence import confidence_hull
from quee.baselines.static import static_hull
from quee.cache import FeatureCache
from quee.evaluation.curves import area, budget_grid, gap_closed
from quee.evaluation.methods import constant_floor, oracle_sweep, routed_sweep
from quee.evaluation.sweep import Setting, Sweep
from quee.experiment import Experiment
from quee.policies import Costs, FittedQ, Plan, fit_fitted_q
from quee.predictors import fit_predictors
from quee.targets import ClusterTargets, future_errors

COMPARED = ("quee_plan", "quee_fitted_q", "static_hull", "confidence_hull", "random_routing", "oracle")
SPLITS = ("predictor", "validation", "test")


def redivide(cache: FeatureCache, seed: int) -> FeatureCache:
    """The same rows under a random permutation of their splits, stratified by label."""
    random = np.random.default_rng(seed)
    split = cache.split.copy()
    for label in np.unique(cache.label):
        rows = np.flatnonzero((cache.label == label) & np.isin(cache.split, SPLITS))
        split[rows] = split[random.permutation(rows)]
    from dataclasses import replace

    return replace(cache, split=split)


def fit_quee(cache: FeatureCache, experiment: Experiment) -> tuple[Plan, FittedQ]:
    """Targets, predictors and the fitted policy from a cache's predictor and validation splits."""
    settings = experiment.targets
    predictor, validation = cache.of("predictor"), cache.of("validation")
    gates = range(1, cache.tree.segments)
    targets = ClusterTargets(settings.clusters, settings.shrinkage, settings.per_node, settings.seed).fit(predictor)
    predictors, _ = fit_predictors(
        predictor,
        [targets.predict(predictor, gate) for gate in gates],
        validation,
        [future_errors(validation, gate) for gate in gates],
        experiment.predictors,
    )
    costs = Costs.of(cache.tree, cache.description, [predictors.bitflops(gate) for gate in gates])
    plan = Plan(cache.tree, costs, predictors)
    return plan, fit_fitted_q(plan, predictor, experiment.policies.fitted_q, experiment.policies.seed)


def compared_sweeps(setting: Setting, plan: Plan, fitted: FittedQ) -> Iterator[Sweep]:
    description = setting.caches["validation"].description
    gates = range(1, setting.tree.segments)
    planned = routed_sweep("quee_plan", setting, plan, plan.costs)
    costs = Costs.of(setting.tree, description, [fitted.bitflops(gate) for gate in gates])
    yield planned
    yield routed_sweep("quee_fitted_q", setting, fitted, costs)
    yield from static_hull(setting)
    yield from confidence_hull(setting)
    yield random_routing(setting, planned)
    yield oracle_sweep(setting)


def resplit(cache: FeatureCache, experiment: Experiment, seed: int) -> list[dict[str, float | int | str]]:
    """One repetition: rows of method, resplit, auc, gap_closed."""
    divided = redivide(cache, seed)
    plan, fitted = fit_quee(divided, experiment)
    caches = {split: divided.of(split) for split in ("validation", "test")}
    setting = Setting(caches, Costs.of(cache.tree, cache.description), experiment.evaluate.points)
    floor = constant_floor(setting)
    grid = budget_grid(setting.costs.static.min(), setting.costs.static.max())
    auc = {sweep.name: area(sweep, grid, floor) for sweep in compared_sweeps(setting, plan, fitted)}
    return [
        {
            "auc": auc[name],
            "gap_closed": gap_closed(auc[name], auc["static_hull"], auc["oracle"]),
            "method": name,
            "resplit": seed,
        }
        for name in COMPARED
    ]
