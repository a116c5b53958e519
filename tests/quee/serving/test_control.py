"""The mean cost equals the requested budget for any inputs, as long as some point reaches it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.serving.control import GRID, BudgetControl

COSTS = [0.04, 0.1, 0.25, 0.5]


def spend(
    control: BudgetControl, budget: float, drift: float, images: int, seed: int = 0, batch: int = 1
) -> np.ndarray:
    """Costs of images that cost `drift` times as much as validation data, within the costs of the cheapest and dearest path."""
    random = np.random.default_rng(seed)
    costs = []
    for _ in range(images // batch):
        applied = control.applied(budget)
        noise = random.gamma(4, 1 / 4, batch)
        costs.append(np.clip(applied * drift * noise, 0.02, 1.0))
        control.spent(budget, costs[-1])
    return np.concatenate(costs)


@settings(max_examples=10)
@given(st.floats(0.5, 2.0), st.floats(0.1, 0.2), st.integers(0, 10))
def test_the_mean_spent_tends_to_the_budget(drift: float, budget: float, seed: int) -> None:
    costs = spend(BudgetControl(COSTS), budget, drift, 4000, seed)
    assert abs(costs.mean() / budget - 1) < 0.1
    assert abs(costs[2000:].mean() / budget - 1) < 0.06


def test_without_control_drift_shows_in_full() -> None:
    costs = spend(BudgetControl(COSTS, enabled=False), 0.15, 2.0, 4000)
    assert costs.mean() / 0.15 == pytest.approx(2.0, rel=0.05)


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=300), st.floats(0.05, 0.45))
def test_the_correction_never_leaves_the_points(costs: list[float], budget: float) -> None:
    control = BudgetControl(COSTS, gain=1 / 8)
    for cost in costs:
        control.spent(budget, np.array([cost]))
        assert COSTS[0] <= control.applied(budget) <= COSTS[-1]


@given(st.lists(st.floats(0.1, 0.3), min_size=1, max_size=50))
def test_the_correction_is_the_debt(costs: list[float]) -> None:
    control = BudgetControl(COSTS)
    control.spent(0.2, np.array(costs))
    debt = sum(cost / 0.2 - 1 for cost in costs)
    assert abs(math.log(control.applied(0.2) / 0.2) + control.gain * debt) <= 0.5 / GRID + 1e-9


def test_data_as_on_validation_are_left_alone() -> None:
    control = BudgetControl(COSTS)
    applied = [control.applied(0.2) for _ in range(500) if control.spent(0.2, np.array([0.2]))]
    assert set(applied) == {0.2}


def test_answers_that_come_a_queue_later_do_not_make_it_swing() -> None:
    costs = spend(BudgetControl(COSTS), 0.15, 2.0, 20_000, batch=200)
    assert np.abs(costs[10_000:].reshape(-1, 1000).mean(axis=1) / 0.15 - 1).max() < 0.1


def test_inputs_that_return_are_soon_served_at_the_budget_again() -> None:
    control = BudgetControl(COSTS)
    spend(control, 0.15, 20.0, 5000)  # out of reach: the cheapest point costs more
    assert control.applied(0.15) == pytest.approx(COSTS[0], rel=1 / GRID)
    costs = spend(control, 0.15, 1.0, 3000)
    assert costs[1500:].mean() == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize("budget", [0.01, 0.04, 0.5, 7.0])
def test_budgets_out_of_reach_are_passed_on(budget: float) -> None:
    control = BudgetControl(COSTS)
    assert control.spent(budget, np.array([1.0] * 100)) == 1.0
    assert control.applied(budget) == budget


def test_budgets_far_apart_do_not_share_their_debt() -> None:
    control = BudgetControl(COSTS)
    control.spent(0.1, np.full(100, 0.4))
    assert control.applied(0.1) < 0.1
    assert control.applied(0.3) == 0.3
