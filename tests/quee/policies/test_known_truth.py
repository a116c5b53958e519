"""Policies against the exact optimum of a world whose error probabilities are known and in which waiting has value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_world import KnownWorld, waiting_world

from quee.evaluation.resplits import fit_policies
from quee.policies.base import Costs, Table, simulate
from quee.policies.fitted_q import FittedQ, fit_fitted_q, stacked
from quee.policies.networks import Predictors, Read
from quee.policies.plan import Plan
from quee.settings.experiment import Experiment

WORLD = waiting_world()
COSTS = Costs.of(WORLD.tree, WORLD.description())
TRADE_OFFS = np.array([0.3, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0])
SEEDS = range(3)


class Nothing(Predictors):
    """Predictors that are never called."""

    def reader(self, gate: int, known: np.ndarray) -> Read:
        return lambda view, rows: (view, view)


class ExactPlan(Plan):
    """The plan with the true error probability of every path given the symbols so far."""

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        history = view[:, -(WORLD.symbols ** len(WORLD.emission)) :].argmax(axis=1)
        joint = WORLD.joint(gate)[:, history]
        ends = self.tree.extensions(gate)[self.position[node]]
        known = np.take_along_axis((joint / joint.sum(axis=0)).T @ WORLD.error, ends, axis=1)
        return Table(gate, node, (known,))


def settings(blend: float | str) -> Experiment:
    return Experiment(
        name="known",
        prepare={"dataset": "digits"},
        backbone={"name": "vit_digits"},
        targets={"clusters": 8, "shrinkage": 0.0},
        predictors={"epochs": 60},
        policies={"fitted_q": {"blend": blend, "knots": 24}},
    )


def fitted(world: KnownWorld, samples: int, seed: int) -> tuple[Plan, dict[float | str, FittedQ]]:
    cache = world.sample(samples, seed)
    policies = fit_policies(cache, settings(0.5), only=("plan", "fitted_q"))[1]
    plan, half = policies["plan"], policies["fitted_q"]
    assert isinstance(plan, Plan)
    assert isinstance(half, FittedQ)
    others = {b: fit_fitted_q(plan, cache.of("predictor"), settings(b).policies.fitted_q) for b in ("auto", 1.0)}
    return plan, {0.5: half, **others}


@pytest.fixture(scope="module")
def few() -> list[tuple[Plan, dict[float | str, FittedQ]]]:
    return [fitted(WORLD, 250, seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def many() -> list[tuple[Plan, dict[float | str, FittedQ]]]:
    return [fitted(WORLD, 4000, seed) for seed in SEEDS]


def test_values_of_the_world_are_what_samples_spend() -> None:
    cache = WORLD.sample(20000, 9)
    plan = ExactPlan(WORLD.tree, COSTS, Nothing([]))
    ends = simulate(WORLD.tree, plan, cache.features, TRADE_OFFS)
    spent = cache.error[np.arange(len(cache))[:, None], ends] + TRADE_OFFS * COSTS.routed[ends]
    expected = WORLD.optimum(COSTS, TRADE_OFFS) + WORLD.regret(plan, COSTS, TRADE_OFFS)
    error = spent.std(axis=1).max(axis=0) / np.sqrt(len(cache))
    assert (np.abs(spent.mean(axis=1).min(axis=0) - expected) < 4 * error).all()


def test_the_optimum_is_below_every_policy(few) -> None:
    for plan, policies in few:
        for policy in (plan, *policies.values()):
            assert (WORLD.regret(policy, COSTS, TRADE_OFFS) > -1e-12).all()


def test_even_a_plan_that_knows_all_probabilities_has_regret_where_waiting_has_value() -> None:
    regret = WORLD.regret(ExactPlan(WORLD.tree, COSTS, Nothing([])), COSTS, TRADE_OFFS)
    assert regret.max() > 0.03
    assert (regret[TRADE_OFFS < 2] < 1e-9).all()


def test_regret_of_plans_does_not_vanish_with_samples(many) -> None:
    assert min(WORLD.regret(plan, COSTS, TRADE_OFFS).max() for plan, _ in many) > 0.03


@pytest.mark.parametrize("blend", ["auto", 1.0])
def test_regret_of_fitted_q_tends_to_zero_with_samples(few, many, blend: float | str) -> None:
    little, much = (
        np.mean([WORLD.regret(policies[blend], COSTS, TRADE_OFFS).mean() for _, policies in found])
        for found in (few, many)
    )
    assert much < 0.002
    assert much < little / 3


def test_half_a_plan_keeps_half_a_plans_regret(many) -> None:
    assert min(WORLD.regret(policies[0.5], COSTS, TRADE_OFFS).max() for _, policies in many) > 0.01


def test_the_automatic_blend_is_no_worse_than_either_part_where_samples_are_few(few) -> None:
    mean = {
        name: np.mean([WORLD.regret(policies[name], COSTS, TRADE_OFFS).mean() for _, policies in few])
        for name in ("auto", 1.0, 0.5)
    }
    plan = np.mean([WORLD.regret(plan, COSTS, TRADE_OFFS).mean() for plan, _ in few])
    assert mean["auto"] <= min(plan, mean[1.0], mean[0.5])


@given(st.floats(0, 1), st.integers(0, 10))
def test_stacking_finds_the_share_that_made_the_values(share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    one, two = random.normal(size=(2, 50, 2, 3, 4))
    two[:, :, 2] = np.inf
    made = np.where(np.isfinite(two), share * one + (1 - share) * np.where(np.isfinite(two), two, 0.0), np.nan)
    assert np.allclose(stacked(one, two, made), share)
