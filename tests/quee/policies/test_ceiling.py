"""A budget as a ceiling: which point serves it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.policies.ceiling import MOST, served, taken
from quee.policies.sweep import Sweep

COSTS = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8, unique=True).map(lambda found: np.array(sorted(found)))


@settings(max_examples=60)
@given(COSTS, st.floats(0.005, 1.2), st.integers(0, 100))
def test_no_budget_is_overdrawn_and_the_points_are_neighbours_in_what_is_taken(
    costs: np.ndarray, budget: float, seed: int
) -> None:
    own = np.random.default_rng(seed).integers(0, 2, len(costs)).astype(bool)  # points that are taken for themselves
    own[0] = True

    def take(last: int) -> int:
        return int(np.flatnonzero(own[: last + 1])[-1])

    low, high, share, met = served(costs, take, budget)
    spent = (1 - share) * costs[low] + share * costs[high]
    assert met == bool(costs[0] <= budget * (1 + 1e-9))
    assert not met or spent <= budget * (1 + 1e-6)
    assert 0 <= share <= 1 and own[low] and own[high]
    if high != low:  # what is beyond the budget is worth it, so that all of the budget is spent
        assert spent == pytest.approx(budget)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(20, 400))
def test_nothing_cheaper_is_taken_than_validation_shows_to_be_as_good(seed: int, samples: int) -> None:
    random = np.random.default_rng(seed)
    errors = (random.random((samples, 6)) < np.linspace(0.4, 0.1, 6)).astype(float)
    found = taken(errors, 5)
    assert 0 <= found <= 5
    for point in range(found, 5):
        lost = errors[:, point] - errors[:, 5]
        assert 100 * (lost.mean() + 1.645 * lost.std(ddof=1) / samples**0.5) <= MOST + 1e-9


def test_where_spending_more_changes_no_answer_the_cheapest_is_taken_and_where_it_helps_the_dearest() -> None:
    errors = np.tile(np.array([[1.0, 0, 0, 0]]), (200, 1))
    assert [taken(errors, last) for last in range(4)] == [0, 1, 1, 1]
    assert taken(1 - errors, 3) == 0, "what is worse is not taken for being dearer"


def test_a_few_more_right_answers_on_validation_are_no_reason_to_spend_less() -> None:
    """The most accurate of many points is there by chance: 200 points of which all are equally good."""
    errors = (np.random.default_rng(0).random((300, 200)) < 0.1).astype(float)
    best = int(errors.mean(axis=0).argmin())
    assert errors[:, best].mean() < errors[:, -1].mean() - 0.02 and best < 199
    assert taken(errors, 199) == 199


def test_samples_of_a_group_count_once() -> None:
    random, samples = np.random.default_rng(1), 6000
    alone = np.zeros((samples, 2))
    changed = random.permutation(samples)[:8]
    alone[changed[:4], 0] = alone[changed[4:], 1] = 1.0
    assert taken(alone, 1) == 0
    frames = np.repeat(np.arange(samples // 100), 100)
    together = np.zeros((samples, 2))
    together[:100, 0] = together[100:200, 1] = 1.0  # two groups that change as a whole
    assert taken(together, 1, frames) == 1


def test_a_curve_is_along_all_points_and_a_budget_is_a_ceiling() -> None:
    errors = {split: np.tile(np.array([[1.0, 0, 0]]), (50, 1)) for split in ("validation", "test")}
    costs = {split: np.tile(np.array([[0.1, 0.2, 0.8]]), (50, 1)) for split in errors}
    sweep = Sweep("own", "lambda", np.array([1.0, 0.1, 0.0]), errors, costs)
    assert sweep.weights(0.6)[0].tolist() == [0, 1, 0], "nothing more is to be had"
    assert sweep.weights(0.15)[0] == pytest.approx([0.5, 0.5, 0])
    assert sweep.spending(0.5)[0] == pytest.approx([0, 0.5, 0.5])
    assert sweep.weights(0.05) == (pytest.approx(np.array([1, 0, 0])), False)
