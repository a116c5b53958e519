from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.evaluation.resplits import fit_quee
from quee.evaluation.sweep import Setting
from quee.policies import EXIT, Costs, FittedQ, Plan, oracle_nodes, simulate, simulate_behind
from quee.policies.fitted_q import interpolate
from quee.predictors import gate_inputs

SETTINGS = small_experiment(epochs=30)
TRADE_OFFS = np.array([0.0, 0.01, 0.1, 1.0, 30.0])


@pytest.fixture(scope="module")
def world() -> tuple[Plan, FittedQ, object]:
    cache = small_cache(600)
    return (*fit_quee(cache, SETTINGS), cache)


def inputs(cache) -> list[np.ndarray]:
    return [gate_inputs(cache.tree, gate, cache.features) for gate in range(1, cache.tree.segments)]


def test_routed_cost_adds_up_along_the_path(world) -> None:
    plan, _, cache = world
    for node in range(len(cache.tree)):
        assert plan.costs.routed[node] == pytest.approx(plan.costs.step[cache.tree.lineage(node)].sum())


def test_plan_with_zero_trade_off_follows_the_path_with_least_predicted_error(world) -> None:
    plan, _, cache = world
    node = int(cache.tree.nodes_at(1)[0])
    x = gate_inputs(cache.tree, 1, cache.features)[:, 0]
    suffixes = cache.tree.suffixes(1)
    best = plan.predicted(node, x).argmin(axis=1)
    expected = [suffixes[i][0] if suffixes[i] else EXIT for i in best]
    assert plan.step(node, x, np.array([0.0]))[:, 0].tolist() == expected


@pytest.mark.parametrize("which", [0, 1])
def test_a_dear_unit_of_cost_makes_every_sample_leave_at_once(world, which: int) -> None:
    cache = world[2]
    ends = simulate(cache.tree, world[which], inputs(cache), np.array([1e4]))
    assert (cache.tree.gate[ends] == 1).all()


@pytest.mark.parametrize("which", [0, 1])
def test_mean_cost_falls_with_the_trade_off(world, which: int) -> None:
    cache, costs = world[2], world[0].costs
    ends = simulate(cache.tree, world[which], inputs(cache), TRADE_OFFS)
    spent = costs.routed[ends].mean(axis=1)
    assert (np.diff(spent, axis=1) <= 1e-9).all()


def test_restricted_plans_stay_inside_their_restriction(world) -> None:
    plan, _, cache = world
    uniform = np.array([len(set(path)) == 1 for path in cache.tree.paths])
    ends = simulate(cache.tree, replace(plan, restrict=uniform), inputs(cache), TRADE_OFFS)
    assert uniform[ends].all()
    full = cache.tree.gate == cache.tree.segments
    ends = simulate(cache.tree, replace(plan, may_exit=full), inputs(cache), TRADE_OFFS)
    assert full[ends].all()


def test_fitted_values_are_exact_at_the_knots_and_between_them_linear() -> None:
    weights, knots = np.random.default_rng(0).normal(size=(3, 2, 4)), np.array([0.0, 1.0, 2.0, 4.0])
    assert np.allclose(interpolate(weights, knots, knots), weights)
    assert np.allclose(interpolate(weights, knots, np.array([3.0]))[..., 0], weights[..., 2:].mean(axis=-1))


def test_fitted_q_survives_storage(world) -> None:
    plan, fitted, cache = world
    again = FittedQ.from_arrays(plan, fitted.arrays())
    one, two = (simulate(cache.tree, policy, inputs(cache), TRADE_OFFS) for policy in (fitted, again))
    assert np.array_equal(one, two)


def test_oracle_is_right_wherever_a_path_is(world) -> None:
    cache = world[2]
    costs = Costs.of(cache.tree, cache.description)
    nodes = oracle_nodes(cache, costs.static, np.array([1e-6]))[:, 0]
    rows = np.arange(len(cache))
    assert np.array_equal(cache.error[rows, nodes], cache.error.all(axis=1))


def test_a_plan_steps_toward_the_path_with_least_predicted_error_and_price(world) -> None:
    plan, _, cache = world
    node = int(cache.tree.nodes_at(1)[0])
    cost, first = plan.future(node)
    x = inputs(cache)[0][:, 0]
    error = plan.predicted(node, x)
    expected = np.stack([first[(error + trade_off * cost).argmin(axis=1)] for trade_off in TRADE_OFFS], axis=1)
    assert (plan.step(node, x, TRADE_OFFS) == expected).all()


@pytest.mark.parametrize("which", [0, 1])
def test_behind_one_first_precision_per_trade_off_samples_leave_where_the_whole_simulation_says(
    world, which: int
) -> None:
    cache = world[2]
    first = np.arange(len(TRADE_OFFS)) % 2
    ends = simulate(cache.tree, world[which], inputs(cache), TRADE_OFFS)
    chosen = ends[first, :, np.arange(len(TRADE_OFFS))].T
    assert (simulate_behind(cache.tree, world[which], inputs(cache), TRADE_OFFS, first) == chosen).all()


def test_another_plan_made_from_one_remembers_nothing_of_it(world) -> None:
    plan, _, cache = world
    node = int(cache.tree.nodes_at(1)[0])
    before, _ = plan.future(node)
    dearer = replace(plan, costs=replace(plan.costs, routed=2 * plan.costs.routed, decision=2 * plan.costs.decision))
    assert np.allclose(dearer.future(node)[0], 2 * before)
    assert plan.future(node)[0] is before
    setting = Setting({"validation": cache}, plan.costs)
    setting.uniform_costs(references=True)
    assert not replace(setting, points=7)._memo
