from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import small_cache, small_experiment

from quee.evaluation.curves import (
    Floor,
    area,
    errors_at,
    gap_closed,
    operating_point,
)
from quee.evaluation.resplits import fit_policies, redivide, resplit
from quee.hull import hull
from quee.policies.registry import all_sweeps
from quee.policies.sweep import Setting, Sweep

SETTINGS = small_experiment(evaluate={"points": 100})


@pytest.fixture(scope="module")
def compared() -> tuple[Setting, dict[str, Sweep]]:
    cache = small_cache(600)
    setting = Setting.of(cache, ("validation", "test"), points=100)
    setting = replace(setting, policies=fit_policies(cache, SETTINGS)[1])
    return setting, {s.name: s for s in all_sweeps(setting)}


def test_every_method_of_the_design_is_there(compared) -> None:
    expected = {"static_hull", "confidence_hull", "quee_plan", "quee_fitted_q", "quee_plan_precisions_only", "oracle"}
    expected |= {
        "quee_auto",
        "confidence_by_gate",
        "entropy_hull",
        "static_mixture",
        "eero",
        "jei_gate",
        "patience",
        "small_static",
        "ztw",
        "random_routing",
    }
    expected |= {f"{m}_{p}" for m in ("static", "confidence", "entropy", "ztw") for p in ("w4a4", "w8a8")}
    expected |= {f"quee_plan_exits_only_{p}" for p in ("w4a4", "w8a8")}
    assert set(compared[1]) == expected


@pytest.mark.parametrize("budget", [0.1, 0.2, 0.4])
def test_budgets_are_kept_on_validation_by_mixing_two_points(compared, budget: float) -> None:
    for name in ("quee_plan", "quee_fitted_q", "confidence_hull", "static_hull"):
        point = operating_point(compared[1][name], budget)
        assert point.validation_cost <= budget * (1 + 1e-6)
        spending = compared[1][name].spending(budget)[0]
        lost = compared[1][name].errors["validation"] @ (compared[1][name].weights(budget)[0] - spending)
        assert 100 * lost.mean() <= 0.1 + 1e-9, "less is spent only where it does not show"
        assert point.budget_met


def test_an_unreachable_budget_gets_the_cheapest_point_and_says_so(compared) -> None:
    point = operating_point(compared[1]["static_w8a8"], 0.05)
    assert not point.budget_met
    assert point.validation_cost == pytest.approx(1.001)


def test_the_oracle_bounds_every_method(compared) -> None:
    setting, sweeps = compared
    floor = Floor.of(setting)
    best = area(sweeps["oracle"], floor)
    assert all(area(sweep, floor) <= best + 1e-9 for sweep in sweeps.values())
    assert gap_closed(best, area(sweeps["static_hull"], floor), best) == 1


def test_routing_beats_random_routing_where_difficulty_shows(compared) -> None:
    setting, sweeps = compared
    floor = Floor.of(setting)
    assert area(sweeps["quee_plan"], floor) > area(sweeps["random_routing"], floor) + 0.01


def test_below_the_cheapest_point_a_method_is_mixed_with_the_free_answer(compared) -> None:
    setting, sweeps = compared
    floor, sweep = Floor.of(setting), sweeps["static_w8a8"]
    errors = errors_at(sweep, np.array([1.001 / 2]), floor)[:, 0]
    assert errors.mean() == pytest.approx((sweep.errors["test"].mean() + floor.errors["test"].mean()) / 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_hull_is_concave_and_nothing_lies_above_it(points) -> None:
    cost, accuracy = (np.array(column) for column in zip(*points, strict=True))
    kept = hull(cost, accuracy)
    assert (np.diff(cost[kept]) > 0).all()
    assert (np.diff(accuracy[kept]) > 0).all()
    above = accuracy - np.interp(cost, cost[kept], accuracy[kept])
    assert (above[cost >= cost[kept[0]]] <= 1e-9).all()


def test_resplits_keep_the_sizes_of_splits_and_differ() -> None:
    cache = small_cache(300)
    first, second = redivide(cache, 0), redivide(cache, 1)
    assert sorted(first.split) == sorted(cache.split)
    assert (first.split != second.split).any()
    assert np.array_equal(redivide(cache, 0).split, first.split)
    kept = cache.split.copy()
    kept[::5] = "certification"
    assert np.array_equal(redivide(replace(cache, split=kept), 0).split == "certification", kept == "certification")


def test_resplits_divide_no_group_and_change_nothing_where_each_has_one_sample() -> None:
    cache = small_cache(300)
    own = replace(cache, group=np.random.default_rng(0).permutation(300))
    assert (redivide(own, 3).split == redivide(cache, 3).split).all()
    groups = np.random.default_rng(0).integers(0, 90, 300)
    again = redivide(replace(cache, group=groups), 3)
    assert all(len(set(again.split[groups == group])) == 1 for group in np.unique(groups))
    for split in ("predictor", "validation", "test"):
        assert abs((again.split == split).sum() - 100) <= np.bincount(groups).max()
    assert (again.split != cache.split).any()


def test_a_resplit_reports_every_compared_method_and_repeats() -> None:
    cache = small_cache(300)
    one, two = (resplit(cache, SETTINGS, 3) for _ in range(2))
    assert one == two
    assert {row["method"] for row in one} >= {"quee_plan", "quee_fitted_q", "static_hull", "oracle"}
