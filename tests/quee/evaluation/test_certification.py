"""Guarantees hold on repeated draws of the certification split from a pool whose means are known."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from small_world import small_cache, small_experiment, with_float

from quee.evaluation.certification import (
    by_group,
    certify,
    conformal_risk_control,
    learn_then_test,
    p_values,
)
from quee.evaluation.measured import float_errors
from quee.evaluation.resplits import fit_policies
from quee.policies.registry import all_sweeps
from quee.policies.sweep import Setting, routed_sweep

DRAWS, SIZE, DELTA = 300, 500, 0.1


def pool() -> tuple[np.ndarray, np.ndarray]:
    """Accuracy losses (-1, 0, 1) and costs in [0, 1] of 20,000 samples at 40 points, the safest first for each."""
    random = np.random.default_rng(0)
    hard, points = random.random(20000)[:, None], np.linspace(0, 1, 40)
    worse = hard < 0.10 * points
    better = random.random(20000)[:, None] > 0.98
    costs = np.clip(0.2 + 0.6 * points * random.beta(2, 2, (20000, 1)), 0, 1)
    return worse.astype(float) - (better & ~worse), costs


LOSS, COST = pool()


def violations(losses: np.ndarray, limit: float, choose: Callable[[np.ndarray], int | None]) -> tuple[int, float]:
    """Draws on which the chosen point's mean over the pool is above the limit, and the mean index chosen."""
    random, truth, count, chosen = np.random.default_rng(1), losses.mean(axis=0), 0, []
    for _ in range(DRAWS):
        index = choose(losses[random.choice(len(losses), SIZE, replace=False)])
        count += index is not None and truth[index] > limit
        chosen.append(-1 if index is None else index)
    return count, float(np.mean(chosen))


def rate_lower_bound(violations: int, trials: int) -> float:
    """Clopper and Pearson's lower 95 % confidence bound of a rate of violations."""
    return 0.0 if violations == 0 else float(beta.ppf(0.05, violations, trials - violations + 1))


@pytest.mark.parametrize("test", ["betting", "hoeffding_bentkus"])
def test_the_accuracy_loss_is_kept_as_often_as_promised(test) -> None:
    count, chosen = violations(LOSS, 0.03, lambda x: learn_then_test(x, 0.03, DELTA, -1.0, 1.0, test))
    assert rate_lower_bound(count, DRAWS) <= DELTA
    assert chosen > 3 or test == "hoeffding_bentkus"  # a guarantee must certify something


def test_disagreement_is_kept_as_often_as_promised_by_the_exact_test() -> None:
    worse = np.maximum(LOSS, 0)
    count, chosen = violations(worse, 0.05, lambda x: learn_then_test(x, 0.05, DELTA, test="binomial"))
    assert rate_lower_bound(count, DRAWS) <= DELTA
    assert chosen > 5


def test_the_budget_is_kept_as_often_as_promised() -> None:
    count, chosen = violations(COST, 0.35, lambda x: learn_then_test(x, 0.35, DELTA))
    assert rate_lower_bound(count, DRAWS) <= DELTA
    assert chosen > 10


def test_a_choice_by_the_mean_alone_breaks_the_promise() -> None:
    def naive(x: np.ndarray) -> int:
        return int(np.flatnonzero(x.mean(axis=0) <= 0.03)[-1])

    count, _ = violations(LOSS, 0.03, naive)
    assert rate_lower_bound(count, DRAWS) > DELTA


def test_conformal_control_keeps_the_limit_on_average() -> None:
    random, truth, kept = np.random.default_rng(2), LOSS.mean(axis=0), []
    for _ in range(DRAWS):
        index = conformal_risk_control(LOSS[random.choice(len(LOSS), SIZE, replace=False)], 0.03)
        kept.append(0.0 if index is None else truth[index])
    assert np.mean(kept) <= 0.03 + 2 * np.std(kept) / np.sqrt(DRAWS)
    assert np.mean(kept) > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.5), st.sampled_from(["betting", "hoeffding_bentkus", "binomial"]))
def test_p_values_are_valid_on_the_boundary(seed: int, rate: float, test) -> None:
    losses = (np.random.default_rng(seed).random((60, 2000)) < rate).astype(float)
    share = (p_values(losses, rate, 0, 1, test) <= 0.1).mean()
    assert share <= 0.1 + 4 * np.sqrt(0.09 / 2000)


def grouped_pool(copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses (n, P) of a pool and groups (n,) of one to `copies` samples that err alike; small groups err more."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, copies + 1, 4000)
    groups = np.repeat(np.arange(4000), sizes)
    hard = random.random(4000) * np.where(sizes < copies / 2, 0.7, 1.3)
    return (hard[groups][:, None] < 0.12 * np.linspace(0, 1, 30)).astype(float), groups


def broken(losses: np.ndarray, groups: np.ndarray, told: bool) -> int:
    """Draws of 60 groups on which the certified point's mean over the pool's samples is above the limit."""
    random, truth, count = np.random.default_rng(4), losses.mean(axis=0), 0
    rows = np.split(np.arange(len(groups)), np.cumsum(np.bincount(groups))[:-1])
    for _ in range(DRAWS):
        own = np.concatenate([rows[group] for group in random.choice(len(rows), 60, replace=False)])
        if not told:
            own = random.permutation(own)
        index = learn_then_test(losses[own], 0.06, DELTA, groups=groups[own] if told else None)
        count += index is not None and truth[index] > 0.06
    return count


def test_the_promise_is_kept_for_groups_and_broken_where_their_samples_count_as_independent() -> None:
    losses, groups = grouped_pool(12)
    assert rate_lower_bound(broken(losses, groups, told=True), DRAWS) <= DELTA
    assert rate_lower_bound(broken(losses, groups, told=False), DRAWS) > DELTA


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-0.5, 0.9))
def test_groups_keep_the_side_of_the_limit_and_the_range(seed: int, limit: float) -> None:
    random = np.random.default_rng(seed)
    losses, groups = random.uniform(-1, 1, (50, 4)), random.integers(0, 20, 50)
    found = by_group(losses, limit, groups)
    assert len(found) == len(np.unique(groups)) and found.min() >= -1 - 1e-9 and found.max() <= 1 + 1e-9
    assert ((found.mean(axis=0) > limit) == (losses.mean(axis=0) > limit)).all()
    assert by_group(losses, limit, np.arange(50)) is losses
    assert conformal_risk_control(losses, limit) == conformal_risk_control(losses, limit, groups=np.arange(50))


def test_losses_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="valid: \\[0, 1\\]"):
        p_values(np.array([[2.0]]), 0.1, 0, 1, "betting")
    with pytest.raises(ValueError, match="losses of 0 or 1"):
        p_values(np.array([[0.5]]), 0.1, 0, 1, "binomial")


def test_testing_stops_at_the_first_point_that_is_not_certified() -> None:
    losses = np.zeros((400, 3))
    losses[:, 1] = 1
    assert learn_then_test(losses, 0.1, 0.1) == 0
    assert conformal_risk_control(losses, 0.1) == 0
    assert learn_then_test(np.ones((400, 2)), 0.1, 0.1) is None
    assert conformal_risk_control(np.ones((400, 2)), 0.1) is None


def test_guarantees_of_policies_come_from_the_certification_split_alone() -> None:
    cache = small_cache(1200)
    split = cache.split.copy()
    split[np.flatnonzero(split == "test")[::2]] = "certification"
    from dataclasses import replace

    cache = with_float(replace(cache, split=split))
    setting = Setting.of(cache, ("validation", "test", "certification"), points=100)
    sweeps = [routed_sweep("quee_plan", setting, fit_policies(cache, small_experiment())[1]["plan"])]
    found = certify(setting, sweeps, [2.0, 20.0], [0.05, 0.5], 0.1)
    assert (found["reference"], found["samples"]) == ("fp32", 200)
    points = found["methods"]["quee_plan"]
    assert points["budget"]["0.05"] == {"conformal": None, "learn_then_test": None}
    assert points["budget"]["0.5"]["learn_then_test"]["validation_cost"] < 0.55
    loose = points["accuracy_loss"]["20"]["learn_then_test"]
    assert loose is not None
    strict = points["accuracy_loss"]["2"]["learn_then_test"]
    assert strict is None or strict["validation_cost"] >= loose["validation_cost"]
    floating = float_errors(setting)
    assert floating is not None and found["reference_test_accuracy"] == pytest.approx(1 - floating.mean())
    unknown = Setting.of(replace(cache, description={**cache.description, "reference_precisions": []}), setting.splits)
    without = certify(unknown, sweeps, [2.0], [0.5], 0.1)
    assert without["reference_test_accuracy"] is None and without["methods"]["quee_plan"]["accuracy_loss"] == {}


@pytest.mark.parametrize("share", [0.001, 0.6, 5.0])
def test_a_network_whose_heads_cost_more_than_its_segments_is_certified_too(share: float) -> None:
    """A routed sample pays every head on its way, a static path only its last head."""
    from dataclasses import replace

    cache = small_cache(300)
    nodes = [{**node, "head_cost": share} for node in cache.description["nodes"]]
    split = np.where(cache.split == "test", "certification", cache.split)
    cache = replace(cache, split=split, description={**cache.description, "nodes": nodes})
    policies = fit_policies(cache, small_experiment())[1]
    caches = {
        "validation": cache.of("validation"),
        "test": cache.of("predictor"),
        "certification": cache.of("certification"),
    }
    setting = replace(Setting.of(cache, (), points=100), caches=caches, policies=policies)
    sweeps = [s for s in all_sweeps(setting) if s.name.startswith("quee_")]
    dearest = max(sweep.costs["certification"].max() for sweep in sweeps)
    found = certify(setting, sweeps, [10.0], [0.5, dearest], 0.1)
    assert found["methods"]["quee_plan"]["budget"][f"{dearest:g}"]["learn_then_test"] is not None
