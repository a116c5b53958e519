from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit
from small_world import small_cache, small_experiment

from quee.evaluation.folds import Rotations
from quee.evaluation.quality import (
    NoisyPredictors,
    fit_other,
    measured_variants,
    others,
    predictor_quality,
    rank_correlation,
    thinned,
)
from quee.evaluation.resplits import fit_plan
from quee.policies.base import Costs
from quee.policies.plan import Plan
from quee.policies.sweep import Setting

QUALITY = {"widths": [1], "samples": [0.05], "noise": [3.0], "clusters": [1, 10]}
EXPERIMENT = small_experiment(evaluate={"points": 100, "quality": QUALITY})


@pytest.fixture(scope="module")
def measured():
    cache = small_cache(600)
    plan = fit_plan(cache, EXPERIMENT)
    setting = Setting({s: cache.of(s) for s in ("validation", "test")}, Costs.of(cache.tree, cache.description), 100)
    rotations = Rotations([setting], EXPERIMENT.evaluate.budgets)
    fitted = {other: fit_other(cache, EXPERIMENT, other) for other in others(EXPERIMENT, [cache])}
    return cache, plan, measured_variants([cache], EXPERIMENT, [plan], rotations, [fitted])


def test_every_variant_is_measured_once(measured) -> None:
    rows, points = measured[2]
    kinds = [("as_used", 1.0), ("noise", 3.0), ("clusters", 10.0), ("width", 1.0), ("samples", 0.05), ("clusters", 1.0)]
    assert [(row["kind"], row["value"]) for row in rows] == kinds
    assert {(point["kind"], point["value"]) for point in points} == set(kinds)


def test_predictors_that_guess_give_a_worse_curve(measured) -> None:
    rows = {row["kind"]: row for row in measured[2][0]}
    assert rows["noise"]["rmse"] > rows["as_used"]["rmse"] + 0.05
    assert rows["noise"]["auc"] < rows["as_used"]["auc"] - 0.005
    correlation = rank_correlation(measured[2][0])
    assert correlation is not None
    assert correlation < 0


def test_one_cluster_knows_nothing_of_a_sample(measured) -> None:
    rows = {row["value"]: row for row in measured[2][0] if row["kind"] == "clusters"}
    assert rows[1.0]["auroc"] < rows[10.0]["auroc"] - 0.05


def test_noise_changes_what_is_said_and_repeats(measured) -> None:
    cache, plan, _ = measured
    assert isinstance(plan, Plan)
    noisy = NoisyPredictors(plan.predictors, 1.0, seed=3)
    inputs = np.random.default_rng(0).random((4000, len(plan.predictors.networks[0].mean))).astype(np.float32)
    assert np.array_equal(noisy.predict(1, inputs), noisy.predict(1, inputs))
    assert np.allclose(noisy.predict(1, inputs[7:9]), noisy.predict(1, inputs)[7:9])  # in any batch
    added = logit(noisy.predict(1, inputs)) - logit(plan.predictors.predict(1, inputs))
    assert np.allclose([added.mean(), added.std()], [0, 1], atol=0.05)
    assert not np.allclose(noisy.predict(1, inputs), plan.predictors.predict(1, inputs))
    assert (
        predictor_quality(noisy, cache.of("test"))["auroc"]
        < predictor_quality(plan.predictors, cache.of("test"))["auroc"]
    )


def test_thinning_takes_from_the_predictor_split_alone() -> None:
    cache = small_cache(300)
    less = thinned(cache, 0.1, 0)
    assert len(less.of("predictor")) == 10
    assert len(less.of("validation")) == len(cache.of("validation"))
    assert set(less.of("predictor").sample_id) <= set(cache.of("predictor").sample_id)
    assert len(thinned(replace(cache), 1e-6, 0).of("predictor")) == 2


def test_two_variants_or_equal_ones_have_no_order_worth_telling() -> None:
    assert rank_correlation([{"kind": "noise", "rmse": 0.1, "auc": a} for a in (0.7, 0.8, 0.9)]) is None
    assert rank_correlation([{"kind": "noise", "rmse": r, "auc": 1 - r} for r in (0.1, 0.2, 0.3)]) == -1
    assert (
        rank_correlation([{"kind": "noise", "rmse": 0.1, "auc": 0.9}, {"kind": "clusters", "rmse": 1, "auc": 0}])
        is None
    )
