"""The mean cost stays within the requested budget for any inputs, as long as some point reaches it."""

import math
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.runtime.control import CREDIT, GRID, BudgetControl

COSTS = [0.04, 0.1, 0.25, 0.5]


def spend(
    control: BudgetControl, budget: float, drift: float, images: int, seed: int = 0, batch: int = 1, lag: int = 0
) -> np.ndarray:
    """Costs of images that cost `drift` times as much as validation data, within the costs of the cheapest and dearest path.

    Control learns a batch's costs `lag` batches after the batch has chosen its budget.
    """
    random = np.random.default_rng(seed)
    costs, waiting = [], []
    for _ in range(images // batch):
        applied = control.applied(budget, batch * lag)
        costs.append(np.clip(applied * drift * random.gamma(4, 1 / 4, batch), 0.02, 1.0))
        waiting.append((costs[-1], applied))
        if len(waiting) > lag:
            cost, under = waiting.pop(0)
            control.spent(budget, cost, under)
    return np.concatenate(costs)


@settings(max_examples=20, deadline=None)
@given(st.floats(1.0, 2.5), st.floats(0.12, 0.3), st.integers(0, 10), st.sampled_from([1, 32, 64, 128]))
def test_the_mean_of_1000_images_is_within_5_percent_of_the_budget(
    drift: float, budget: float, seed: int, batch: int
) -> None:
    costs = spend(BudgetControl(COSTS), budget, drift, 1024, seed, batch)
    assert 0.9 < costs.mean() / budget < 1.05


def test_without_control_drift_shows_in_full() -> None:
    control = BudgetControl(COSTS, enabled=False)
    costs = spend(control, 0.15, 2.0, 4000)
    assert costs.mean() / 0.15 == pytest.approx(2.0, rel=0.05)
    assert control.state(0.15).drift == pytest.approx(2.0, rel=0.2), "the drift is seen all the same"


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=300), st.floats(0.05, 3.0))
def test_the_budget_applied_is_never_above_the_one_asked_nor_below_the_points(
    costs: list[float], budget: float
) -> None:
    control = BudgetControl(COSTS, gain=1 / 8)
    for cost in costs:
        control.spent(budget, np.array([cost]), budget)
        assert COSTS[0] <= control.applied(budget) <= budget


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=100), st.integers(1, 99))
def test_how_costs_are_divided_among_calls_changes_nothing(costs: list[float], cut: int) -> None:
    whole, parts = BudgetControl(COSTS, gain=1e-9), BudgetControl(COSTS, gain=1e-9)  # so small that no debt is cut off
    found = whole.spent(0.2, np.array(costs), 0.1)
    for some in (costs[:cut], costs[cut:]):
        told = parts.spent(0.2, np.array(some), 0.1)
    assert told.images == found.images == len(costs)
    assert told.mean_cost == pytest.approx(found.mean_cost)
    assert told.drift == pytest.approx(found.drift)


def test_data_as_on_validation_are_left_alone() -> None:
    control = BudgetControl(COSTS)
    applied = [control.applied(0.2) for _ in range(500) if control.spent(0.2, np.array([0.2]), 0.2)]
    assert set(applied) == {0.2}


def test_inputs_that_cost_less_are_not_made_dearer() -> None:
    control = BudgetControl(COSTS)
    spend(control, 0.2, 0.5, 4000)
    assert control.applied(0.2) == 0.2
    assert control.state(0.2).debt == -CREDIT


def test_a_point_below_its_budget_may_drift_up_to_the_budget() -> None:
    """A budget of 0.2 that is answered by a point of 0.1 is a ceiling: images twice as dear are within it."""
    control = BudgetControl(COSTS)
    for _ in range(1000):
        control.spent(0.2, np.array([0.19]), 0.1)
    assert min(control.applied(0.2), 0.1) * control.state(0.2).drift <= 0.2


@pytest.mark.parametrize("lag", [1, 3, 5])
def test_answers_that_come_a_queue_later_do_not_make_it_swing(lag: int) -> None:
    costs = spend(BudgetControl(COSTS), 0.15, 2.0, 20_000, batch=200, lag=lag)
    assert np.abs(costs[10_000:].reshape(-1, 1000).mean(axis=1) / 0.15 - 1).max() < 0.1


def test_inputs_that_return_are_soon_served_at_the_budget_again() -> None:
    control = BudgetControl(COSTS)
    spend(control, 0.15, 20.0, 5000)  # out of reach: the cheapest point costs more
    assert control.applied(0.15) == pytest.approx(COSTS[0], rel=1 / GRID)
    costs = spend(control, 0.15, 1.0, 3000)
    assert costs[1500:].mean() == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize("budget", [0.01, 0.04])
def test_budgets_below_every_point_are_passed_on(budget: float) -> None:
    control = BudgetControl(COSTS)
    control.spent(budget, np.array([1.0] * 100), COSTS[0])
    assert control.applied(budget) == budget


def test_a_budget_above_every_point_is_steered_only_when_more_is_spent() -> None:
    control = BudgetControl(COSTS)
    control.spent(0.7, np.full(500, 0.5), 0.5)
    assert control.applied(0.7) == 0.7
    control.spent(0.7, np.full(500, 1.4), 0.5)
    assert control.applied(0.7) < 0.5


def test_budgets_far_apart_do_not_share_their_account() -> None:
    control = BudgetControl(COSTS)
    control.spent(0.1, np.full(100, 0.4), 0.1)
    assert control.applied(0.1) < 0.1
    assert control.applied(0.3) == 0.3
    assert control.state(0.3).images == 0


def test_threads_lose_no_image() -> None:
    control = BudgetControl(COSTS)

    def answer() -> None:
        for _ in range(500):
            control.spent(0.2, np.full(4, 0.2), control.applied(0.2))

    threads = [Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = control.state(0.2)
    assert state.images == 8000
    assert state.mean_cost == pytest.approx(0.2)
    assert math.isclose(state.debt, 0.0, abs_tol=1e-6)
