"""Repetitions on random re-divisions of the held-out rows: ensembles, targets, predictors and policies fitted anew each time."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from quee.cache.answers import with_ensembles
from quee.cache.read import FeatureCache
from quee.data.grouped import cut_groups
from quee.evaluation.curves import Floor, area, gap_closed
from quee.groups import divides
from quee.policies.base import Basis, Router
from quee.policies.names import BOUND, MAIN, REFERENCE, rivals
from quee.policies.plan import Plan
from quee.policies.registry import all_sweeps, fit_learned
from quee.policies.sweep import Setting
from quee.predictors import fit_predictors
from quee.settings.experiment import Experiment
from quee.targets import ClusterTargets

POINTS = 60
"""Most trade-offs λ in a sweep; budgets between two of them are met by mixing."""
SPLITS = ("predictor", "validation", "test")


def redivide(cache: FeatureCache, seed: int, splits: Sequence[str] = SPLITS) -> FeatureCache:
    """The same rows with the labels `splits` permuted at random, stratified by class.

    With groups, they are divided anew into shares of the same sizes, and no group is divided.
    """
    random = np.random.default_rng(seed)
    split = cache.split.copy()
    if cache.group is not None and divides(cache.group):
        rows = random.permutation(np.flatnonzero(np.isin(cache.split, splits)))
        shares = {name: float(np.mean(cache.split[rows] == name)) for name in splits}
        for name, part in cut_groups(rows, cache.label[rows], cache.group[rows], shares, random).items():
            split[part] = name
        return replace(cache, split=split)
    for label in np.unique(cache.label):
        rows = np.flatnonzero((cache.label == label) & np.isin(cache.split, splits))
        split[rows] = split[random.permutation(rows)]
    return replace(cache, split=split)


def fit_plan(cache: FeatureCache, experiment: Experiment, seed: int = 0) -> Plan:
    """Targets and predictors from a cache's predictor and validation splits; `seed` is added to the settings' seeds."""
    return Plan.of(_basis(cache, experiment, seed))


def _basis(cache: FeatureCache, experiment: Experiment, seed: int) -> Basis:
    settings = experiment.targets
    predictor, validation = cache.of("predictor"), cache.of("validation")
    gates = range(1, cache.tree.segments)
    clusters = ClusterTargets(settings.clusters, settings.shrinkage, settings.per_node, settings.seed + seed)
    targets = clusters.fit(predictor)
    predictors, _ = fit_predictors(
        predictor,
        (targets.predict(predictor, gate) for gate in gates),
        validation,
        experiment.predictors.model_copy(update={"seed": experiment.predictors.seed + seed}),
    )
    return Basis(cache.tree, cache.description, predictors)


def fit_policies(
    cache: FeatureCache, experiment: Experiment, seed: int = 0, only: Collection[str] | None = None
) -> tuple[Basis, dict[str, Router]]:
    """Predictors fitted to targets, and the learned policies by name, all or those in `only`; with `seed` 0 they equal those
    of the stages."""
    basis, setting = _basis(cache, experiment, seed), Setting.of(cache, ("validation",), experiment.policies)
    return basis, fit_learned(replace(setting, predictors=basis.predictors, seed=setting.seed + seed), only)


def resplit(cache: FeatureCache, experiment: Experiment, seed: int) -> list[dict[str, float | int | str | None]]:
    """One repetition on a cache of own heads: rows of method, resplit, auc, gap_closed."""
    divided = with_ensembles(redivide(cache, seed), experiment.targets.ensemble)
    points = min(experiment.evaluate.points, POINTS)
    setting = Setting.of(divided, ("validation", "test"), experiment.policies, points)
    setting = replace(setting, policies=fit_policies(divided, experiment)[1])
    floor = Floor.of(setting)
    sweeps = {sweep.name: sweep for sweep in all_sweeps(setting)}
    auc = {name: area(sweeps[name], floor) for name in dict.fromkeys([*MAIN, *rivals(sweeps)])}
    return [
        {
            "auc": value,
            "gap_closed": gap_closed(value, auc[REFERENCE], auc[BOUND]),
            "method": name,
            "resplit": seed,
        }
        for name, value in auc.items()
    ]
