"""Operating points under a limit, for any order of the tree's precisions; under a budget and under an accuracy loss."""

import re
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import UsageError
from quee.paths import PathTree
from quee.policies.sweep import Sweep
from quee.runtime.operating import Guarantee, OperatingPoints, Options, Point

COST = {"w3a3": 0.1, "w4a4": 0.2, "w8a8": 0.9}


@pytest.mark.parametrize("order", permutations(COST))
@given(limit=st.floats(0.01, 2.0), start=st.sampled_from(sorted(COST)))
def test_a_limit_leaves_the_dearest_first_step_within_it(order: tuple[str, ...], limit: float, start: str) -> None:
    tree = PathTree(order, 2)
    costs = np.array([sum(COST[str(p)] for p in path) for path in tree.paths])
    points = OperatingPoints(tree, costs, [Point(0.1, order.index(start), 0.5, 0.9)], 0.5)
    at = points.choose(Options(max_cost=limit))
    found = order[at.low.first]
    allowed = [name for name in COST if COST[name] <= limit]
    if start in allowed:
        assert found == start
    else:
        assert found == (max(allowed, key=lambda name: COST[name]) if allowed else "w3a3")
    assert at.met == bool(allowed)


TREE = PathTree(["w4a4", "w8a8"], 2)
COSTS = np.linspace(0.1, 0.9, len(TREE))
LOSING = [
    Point(1.0, 0, 0.1, 0.80, accuracy_loss=10.0, accuracy_loss_limit=12.0),
    Point(0.1, 0, 0.2, 0.89, accuracy_loss=1.0, accuracy_loss_limit=1.6),
    Point(0.01, 0, 0.4, 0.895, taken=1, accuracy_loss=0.5, accuracy_loss_limit=1.8),
    Point(0.0, 1, 0.8, 0.90, accuracy_loss=0.0, accuracy_loss_limit=0.9),
]
CERTIFIED = [
    Guarantee("accuracy_loss", 2.0, "learn_then_test", 0.1, 500, 0.01, 0.4),
    Guarantee("accuracy_loss", 1.0, "learn_then_test", 0.1, 500, 0.0, 0.8),
    Guarantee("accuracy_loss", 0.2, "conformal", 0.1, 500, 0.1, 0.2),
    Guarantee("budget", 0.5, "learn_then_test", 0.1, 500, 0.01, 0.4),
]


def points(guarantees: list[Guarantee] | None = None, own: list[Point] = LOSING) -> OperatingPoints:
    return OperatingPoints(TREE, COSTS, own, 0.5, guarantees=guarantees or [])


@pytest.mark.parametrize(
    ("loss", "certified", "served", "met"),
    [
        (12.5, False, 0, True), (2, False, 1, True), (1.6, False, 1, True), (1.5, False, 3, True), (0.9, False, 3, True),
        (0.5, False, 3, False), (0, False, 3, False), (2.5, True, 2, True), (1.0, True, 3, True), (0.5, True, 3, False),
    ],
)  # fmt: skip
def test_an_accuracy_loss_gets_the_cheapest_point_that_keeps_it_or_the_nearest(
    loss: float, certified: bool, served: int, met: bool
) -> None:
    at = points(CERTIFIED).choose(Options(accuracy_loss=loss, certified=certified))
    assert (at.low, at.high, at.met) == (LOSING[served], LOSING[served], met)
    assert at.expected.accuracy_loss_limit == LOSING[served].accuracy_loss_limit


def test_a_certified_point_is_found_by_its_policy_and_knob_not_by_a_price() -> None:
    """Points of several policies have their numbers for knobs; the certificate's trade-off is the price that prefers one."""
    several = [replace(p, trade_off=float(i), policy=("eero", "plan")[i % 2]) for i, p in enumerate(LOSING)]
    said = ("accuracy_loss", 1.0, "learn_then_test", 0.1, 500, 2.0, 0.2, "fp32")

    def served(guarantee: Guarantee) -> Point:
        found = OperatingPoints(TREE, COSTS, several, 0.5, priced=False, guarantees=[guarantee])
        return found.choose(Options(accuracy_loss=1.0, certified=True)).low

    assert served(Guarantee(*said, "plan", 1.0)) is several[1]
    for other in (Guarantee(*said), Guarantee(*said, "eero", 1.0)):
        with pytest.raises(UsageError, match="no accuracy loss against the float network is certified"):
            served(other)


def test_a_budget_is_a_ceiling_under_which_no_more_is_spent_than_shows() -> None:
    def costs(budget: float) -> tuple[float, float]:
        at = points().choose(Options(budget=budget))
        return at.low.cost, at.expected.cost

    assert costs(0.15) == (0.1, pytest.approx(0.15)), "the next point is worth its cost"
    assert costs(0.3) == costs(0.39) == (0.2, 0.2), "the next point is not"
    assert costs(0.6) == (0.2, pytest.approx(0.6))
    assert costs(2.0) == (0.8, 0.8)
    assert not points().choose(Options(budget=0.05)).met


@given(st.integers(0, 500), st.floats(0.05, 1.2))
def test_a_bundle_takes_the_points_that_evaluate_takes(seed: int, budget: float) -> None:
    random = np.random.default_rng(seed)
    errors = (random.random((60, 5)) < random.uniform(0, 0.2, 5)).astype(float)
    cost = np.sort(random.uniform(0.1, 1.0, 5))
    sweep = Sweep.at("own", {"validation": errors}, cost)
    own = [Point(float(i), 0, float(cost[i]), 0.9, taken=sweep.taken(i)) for i in range(len(sweep.order))]
    at, (weights, met) = points(own=own).choose(Options(budget=budget)), sweep.weights(budget)
    found = np.zeros(5)
    found[int(at.low.trade_off)] += 1 - at.share
    found[int(at.high.trade_off)] += at.share
    assert found == pytest.approx(weights) and at.met == met


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accuracy_loss": -1.0}, "accuracy_loss=-1.0: give a finite number of 0 or more"),
        ({"accuracy_loss": float("nan")}, "accuracy_loss=nan: give a finite number of 0 or more"),
        ({"accuracy_loss": 101}, "accuracy_loss=101: give points of accuracy, at most 100"),
        ({"accuracy_loss": True}, "accuracy_loss=True: give a finite number of 0 or more"),
        ({"accuracy_loss": 1, "budget": 0.2}, "not both budget and accuracy_loss"),
        ({"accuracy_loss": 1, "trade_off": 0.2}, "not both accuracy_loss and trade_off"),
        ({"accuracy_loss": 1, "max_cost": 0.2}, "accuracy_loss does not go with max_cost"),
        ({"accuracy_loss": 1, "latency_ms": 2}, "nothing beside it"),
        ({"certified": True}, "certified goes with accuracy_loss"),
        ({"certified": 1, "accuracy_loss": 1}, "certified=1: give true or false"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Options(**options)


def test_a_bundle_that_does_not_know_its_losses_says_so() -> None:
    before = [Point(1.0, 0, 0.1, 0.8), Point(0.0, 0, 0.4, 0.9)]
    with pytest.raises(UsageError, match="does not know the float network's accuracy.*make it anew"):
        points(own=before).choose(Options(accuracy_loss=1.0))
    shares = [replace(guarantee, reference="static_w8a8") for guarantee in CERTIFIED]
    for guarantees in ([], CERTIFIED[2:], shares):
        with pytest.raises(UsageError, match="no accuracy loss against the float network is certified"):
            points(guarantees).choose(Options(accuracy_loss=1.0, certified=True))
