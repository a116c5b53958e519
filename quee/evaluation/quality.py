"""How the curve depends on the quality of the predictors and on the number of clusters (Figs. 4 and 5C).

Predictors are made worse in three ways: a narrower network, fewer training samples, noise on the logits of a good
network. All are fitted from the cache and measured like the plan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, spearmanr

from quee.cache.read import FeatureCache
from quee.evaluation.folds import Rotations
from quee.evaluation.measured import Measured
from quee.evaluation.resplits import fit_plan
from quee.policies.base import Basis
from quee.policies.networks import Predictors, Read
from quee.policies.plan import Plan
from quee.policies.sweep import routed_sweep
from quee.predictors import over_gates, predictions, quality
from quee.settings.experiment import Experiment
from quee.targets import future_errors
from quee.work.progress import progress
from quee.work.threads import in_threads

Row = dict[str, Any]
Other = tuple[str, float]
"""Kind and value of a variant."""
QUALITY = ("as_used", "width", "samples", "noise")
"""Kinds of variants that differ in the predictors alone."""

SCRAMBLE = 1e5
"""Factor on a projection of the inputs, so large that the fractional part of the product looks random."""


class NoisyPredictors(Predictors):
    """Predictors with normal noise on their logits. A sample's noise depends on its inputs alone."""

    def __init__(self, predictors: Predictors, noise: float, seed: int = 0) -> None:
        super().__init__(predictors.networks)
        self.noise, self.seed = noise, seed

    def predict(self, gate: int, inputs: np.ndarray) -> np.ndarray:
        """Like `Predictors.predict`."""
        clean = logit(np.clip(super().predict(gate, inputs), 1e-6, 1 - 1e-6))
        directions = np.random.default_rng([self.seed, gate]).normal(size=(inputs.shape[-1], clean.shape[-1]))
        uniform = np.clip((SCRAMBLE * (inputs.astype(np.float64) @ directions)) % 1.0, 1e-6, 1 - 1e-6)
        found: np.ndarray = expit(clean + self.noise * norm.ppf(uniform))
        return found

    def reader(self, gate: int, known: np.ndarray) -> Read:
        def read(view: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            inputs = np.concatenate([view, known[rows]], axis=1)
            return self.networks[gate - 1].hidden(inputs), self.predict(gate, inputs)

        return read


@dataclass(frozen=True)
class Variant:
    """A plan whose predictors or targets differ from the experiment's in one thing."""

    kind: str
    """`as_used`, `width`, `samples`, `noise` or `clusters`."""
    value: float
    plan: Plan


def variants(
    cache: FeatureCache, experiment: Experiment, plan: Plan, samples: int, fitted: Mapping[Other, Predictors]
) -> Iterator[Variant]:
    """The plan itself, then its variants under `evaluate.quality`, those of `others` from predictors that are fitted."""
    yield Variant("as_used", 1.0, plan)
    for noise in experiment.evaluate.quality.noise:
        noisy = NoisyPredictors(plan.predictors, noise, experiment.evaluate.seed)
        yield Variant("noise", noise, replace(plan, predictors=noisy))
    yield Variant("clusters", float(min(experiment.targets.clusters, samples)), plan)
    for other, predictors in fitted.items():
        yield Variant(*other, Plan.of(Basis(cache.tree, cache.description, predictors)))


def others(experiment: Experiment, caches: Sequence[FeatureCache]) -> list[Other]:
    """Kind and value of the variants whose predictors are fitted. A network of one segment has none.

    Numbers of clusters above the least number of samples in a rotation's predictor split are left out.
    """
    settings = experiment.evaluate.quality
    if caches[0].tree.segments == 1:
        return []
    clusters = [
        number for number in settings.clusters if number != experiment.targets.clusters and number <= _samples(caches)
    ]
    return [
        *(("width", float(width)) for width in settings.widths),
        *(("samples", share) for share in settings.samples),
        *(("clusters", float(number)) for number in clusters),
    ]


def _samples(caches: Sequence[FeatureCache]) -> int:
    return min(int((cache.split == "predictor").sum()) for cache in caches)


def fit_other(cache: FeatureCache, experiment: Experiment, other: Other) -> Predictors:
    """The predictors of one of `others`."""
    kind, value = other
    if kind == "samples":
        return fit_plan(thinned(cache, value, experiment.evaluate.seed), experiment).predictors
    block, key = {"width": ("predictors", "hidden"), "clusters": ("targets", "clusters")}[kind]
    changed = getattr(experiment, block).model_copy(update={key: int(value)})
    return fit_plan(cache, experiment.model_copy(update={block: changed})).predictors


def thinned(cache: FeatureCache, share: float, seed: int) -> FeatureCache:
    """The cache with a random share of its predictor split, at least two samples; the rest of that split is left out."""
    rows = np.flatnonzero(cache.split == "predictor")
    kept = np.random.default_rng(seed).permutation(rows)[: max(2, round(share * len(rows)))]
    keep = cache.split != "predictor"
    keep[kept] = True
    return cache.select(keep)


def predictor_quality(predictors: Predictors, cache: FeatureCache) -> dict[str, float | None]:
    """RMSE, ECE, AUROC and AURC of predicted against realised errors, mean over gates; empty without gates."""
    gates = range(1, cache.tree.segments)
    return over_gates([quality(predictions(predictors, cache, gate), future_errors(cache, gate)) for gate in gates])


def measured_variants(
    caches: Sequence[FeatureCache],
    experiment: Experiment,
    plans: Sequence[Plan],
    rotations: Rotations,
    fitted: Sequence[Mapping[Other, Predictors]],
) -> tuple[list[Row], list[Row]]:
    """A row per variant with its predictors' quality on test and its `auc`; and the points of its curve on test.

    `caches`, `plans` and `fitted`, the predictors of `others`, are those of the rotations; the quality is the mean over them.
    Empty for a network of one segment, which has no gate with a predictor.
    """
    rows, points = [], []
    if caches[0].tree.segments == 1:  # there is no predictor
        return [], []
    samples = _samples(caches)
    every = [variants(c, experiment, p, samples, own) for c, p, own in zip(caches, plans, fitted, strict=True)]
    by_variant = list(zip(*every, strict=True))
    distinct = {id(own[0].plan): [v.plan for v in own] for own in by_variant}  # the plan as it is comes twice

    def measured(own_plans: Sequence[Plan]) -> tuple[Measured, dict[str, float | None]]:
        pairs = list(zip(rotations.settings, own_plans, strict=True))
        found = rotations.measure([routed_sweep("quee_plan", setting, plan) for setting, plan in pairs])
        return found, _mean([predictor_quality(plan.predictors, s.caches["test"]) for s, plan in pairs])

    with progress("predictors of other quality", len(distinct)) as bar:
        known = {}
        for key, result in zip(distinct, in_threads(measured, distinct.values()), strict=True):
            known[key] = result
            bar.advance()
        for by_rotation in by_variant:
            variant = by_rotation[0]
            found, how_good = known[id(variant.plan)]
            own = {"kind": variant.kind, "value": float(variant.value)}
            rows.append({**own, "auc": found.auc, **how_good})
            points += [{**own, "accuracy": a, "cost": c} for split, _, a, c in found.curve if split == "test"]
    return rows, points


def _mean(by_rotation: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Means over rotations; None where a rotation has no value."""
    if len(by_rotation) == 1:
        return by_rotation[0]
    columns = {name: [quality[name] for quality in by_rotation] for name in by_rotation[0]}
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    return {name: sum(v) / len(v) if len(v) == len(by_rotation) else None for name, v in known.items()}


def rank_correlation(rows: list[Row]) -> float | None:
    """Spearman's rank correlation of RMSE and `auc` over predictors: −1 where a lower RMSE always gives a better curve."""
    own = [(row["rmse"], row["auc"]) for row in rows if row["kind"] in QUALITY]
    if len(own) < 3 or min(len(set(column)) for column in zip(*own, strict=True)) < 2:
        return None  # nothing to rank
    return float(spearmanr(own).statistic)
