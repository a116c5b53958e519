"""Costs at which methods get near the float network, compared with the definition, and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.evaluation.curves import cost_at_drop
from quee.evaluation.draws import Draws
from quee.evaluation.drops import cost_intervals, cost_replicates
from quee.evaluation.near import DROPS
from quee.policies.sweep import Sweep

SAMPLES = 400
VALUES = np.array([3.0, 2.0, 1.0, 0.0])
COSTS = np.array([0.1, 0.2, 0.4, 0.8])


def sweep(rates: list[float], seed: int = 0, name: str = "quee_plan") -> Sweep:
    """A method with these error rates at its points; samples are drawn by seed."""
    random = np.random.default_rng(seed)
    errors = {s: random.random((SAMPLES, 4)) < np.array(rates) for s in ("validation", "test")}
    costs = {s: COSTS * random.uniform(0.9, 1.1, (SAMPLES, 1)) for s in ("validation", "test")}
    return Sweep(name, "lambda", VALUES, errors, costs)


def every(samples: int = SAMPLES, seeds: int = 1) -> Draws:
    """The single draw that equals the sample itself."""
    return Draws(np.full((1, samples), 1 / samples), np.full((1, seeds), 1 / seeds))


@given(seed=st.integers(0, 50), last=st.floats(0.0, 0.3))
def test_on_the_sample_itself_it_is_the_cost_that_is_reported(seed: int, last: float) -> None:
    method = sweep([0.3, 0.2, 0.15, last], seed)
    float_errors = np.random.default_rng(seed + 1000).random(SAMPLES) < 0.15
    (found,) = cost_replicates(method, float_errors, every())
    for drop, cost in zip(DROPS, found, strict=True):
        expected = cost_at_drop(method, 1 - float_errors.mean(), drop)
        assert cost == (np.inf if expected is None else pytest.approx(expected))


def test_the_float_network_is_drawn_with_the_method() -> None:
    """A method with the network's errors is equally near in every draw."""
    method = sweep([0.5, 0.4, 0.3, 0.2])
    draws = Draws.of(SAMPLES, 1, 200, 0)
    found = cost_replicates(method, method.errors["test"][:, 3], draws)
    assert np.isfinite(found).all()
    alone = cost_replicates(method, np.full(SAMPLES, method.errors["test"][:, 3].mean()), draws)
    assert not np.isfinite(alone).all()


def test_an_interval_holds_the_estimate_and_never_is_none() -> None:
    draws, truth = Draws.of(SAMPLES, 1, 400, 0), np.random.default_rng(9).random(SAMPLES) < 0.02
    near = {
        "quee_plan": [cost_replicates(sweep([0.4, 0.3, 0.01, 0.01]), truth, draws)],
        "static_hull": [cost_replicates(sweep([0.6, 0.6, 0.6, 0.01], 1), truth, draws)],
        "oracle": [cost_replicates(sweep([0.6, 0.6, 0.6, 0.6], 2), truth, draws)],
    }
    said = cost_intervals(near, draws)
    plan, never = said["cost_at_drop"]["quee_plan"]["1.0"], said["cost_at_drop"]["oracle"]["1.0"]
    assert plan["low"] <= 0.4 <= plan["high"] * 1.05
    assert plan["reached"] > 0.95
    assert never == {"high": None, "low": None, "reached": 0.0}
    ratio = said["cost_at_drop_ratio"]["quee_plan"]["static_hull"]["1.0"]
    assert ratio["low"] == pytest.approx(0.5, rel=0.05)


def test_a_ratio_of_two_that_never_get_there_says_nothing() -> None:
    draws = Draws.of(SAMPLES, 1, 50, 0)
    lost = [np.full((50, 2), np.inf)]
    said = cost_intervals({"quee_plan": lost, "static_hull": lost}, draws)["cost_at_drop_ratio"]
    assert said["quee_plan"]["static_hull"]["0.5"] == {"high": None, "low": 0.0}


def test_one_seed_that_never_gets_there_makes_it_never_and_seeds_widen_the_interval() -> None:
    draws = Draws.of(SAMPLES, 3, 400, 0)
    same = np.full((400, 2), 0.4)
    apart = [same, same * 0.5, same * 1.5]
    row = cost_intervals({"quee_plan": apart}, draws)["cost_at_drop"]["quee_plan"]["0.5"]
    assert row["low"] < 0.35 < 0.45 < row["high"]
    lost = [same, same, np.where(np.arange(400)[:, None] < 100, np.inf, same)]
    row = cost_intervals({"quee_plan": lost}, draws)["cost_at_drop"]["quee_plan"]["0.5"]
    assert row == {"high": None, "low": pytest.approx(0.4), "reached": 0.75}
