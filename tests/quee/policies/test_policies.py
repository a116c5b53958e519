from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.evaluation.resplits import fit_policies
from quee.paths import PathTree
from quee.policies.base import EXIT, Basis, Costs, Limit, Table, simulate, simulate_behind
from quee.policies.fitted_q import FittedQ, interpolate
from quee.policies.networks import views
from quee.policies.oracle import oracle_nodes
from quee.policies.plan import Plan
from quee.policies.sweep import Setting

SETTINGS = small_experiment(epochs=30)
TRADE_OFFS = np.array([0.0, 0.01, 0.1, 1.0, 30.0])


@pytest.fixture(scope="module")
def world() -> tuple[Plan, FittedQ, object]:
    cache = small_cache(600)
    policies = fit_policies(cache, SETTINGS)[1]
    return policies["plan"], policies["fitted_q"], cache


def read(policy, cache, gate: int, node: int) -> Table:
    """A policy's reading of all samples of a cache at one node."""
    view = cache.features[:, cache.tree.lineage(node)].reshape(len(cache), -1)
    return policy.read(gate, np.full(len(cache), node), view)


def knob(cache, value: float) -> np.ndarray:
    return np.full(len(cache), value)


def test_routed_cost_adds_up_along_the_path(world) -> None:
    plan, _, cache = world
    for node in range(len(cache.tree)):
        assert plan.costs.routed[node] == pytest.approx(plan.costs.step[cache.tree.lineage(node)].sum())


def test_plan_with_zero_trade_off_follows_the_path_with_least_predicted_error(world) -> None:
    plan, _, cache = world
    node = int(cache.tree.nodes_at(1)[0])
    table, suffixes = read(plan, cache, 1, node), cache.tree.suffixes(1)
    expected = [suffixes[i][0] if suffixes[i] else EXIT for i in table.columns[0].argmin(axis=1)]
    assert plan.decide(table, knob(cache, 0.0)).tolist() == expected


@pytest.mark.parametrize("which", [0, 1])
def test_a_dear_unit_of_cost_makes_every_sample_leave_at_once(world, which: int) -> None:
    cache = world[2]
    ends = simulate(cache.tree, world[which], cache.features, np.array([1e4]))
    assert (cache.tree.gate[ends] == 1).all()


@pytest.mark.parametrize("which", [0, 1])
def test_mean_cost_falls_with_the_trade_off(world, which: int) -> None:
    cache, costs = world[2], world[0].costs
    ends = simulate(cache.tree, world[which], cache.features, TRADE_OFFS)
    spent = costs.routed[ends].mean(axis=1)
    assert (np.diff(spent, axis=1) <= 1e-9).all()


def test_restricted_plans_stay_inside_their_restriction(world) -> None:
    plan, _, cache = world
    uniform = np.array([len(set(path)) == 1 for path in cache.tree.paths])
    ends = simulate(cache.tree, replace(plan, restrict=uniform), cache.features, TRADE_OFFS)
    assert uniform[ends].all()
    full = cache.tree.gate == cache.tree.segments
    ends = simulate(cache.tree, replace(plan, may_exit=full), cache.features, TRADE_OFFS)
    assert full[ends].all()


def test_fitted_values_are_exact_at_the_knots_and_between_them_linear() -> None:
    weights, knots = np.random.default_rng(0).normal(size=(3, 2, 4)), np.array([0.0, 1.0, 2.0, 4.0])
    assert np.allclose(interpolate(weights, knots, knots), weights.transpose(2, 0, 1))
    assert np.allclose(interpolate(weights, knots, np.array([3.0]))[0], weights[..., 2:].mean(axis=-1))


def test_fitted_q_survives_storage(world) -> None:
    plan, fitted, cache = world
    again = FittedQ.load(Basis(cache.tree, cache.description, plan.predictors), fitted.arrays())
    one, two = (simulate(cache.tree, policy, cache.features, TRADE_OFFS) for policy in (fitted, again))
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
    ahead, table = plan.futures(1), read(plan, cache, 1, node)
    for trade_off in TRADE_OFFS:
        expected = ahead.first[(table.columns[0] + trade_off * ahead.cost[0]).argmin(axis=1)]
        assert (plan.decide(table, knob(cache, trade_off)) == expected).all()


@pytest.mark.parametrize("which", [0, 1])
def test_a_decision_depends_on_its_own_sample_alone_and_mixes_nodes_and_knobs(world, which: int) -> None:
    policy, cache, random = world[which], world[2], np.random.default_rng(0)
    for gate in range(1, cache.tree.segments):
        nodes = cache.tree.nodes_at(gate)
        index, trade_off = random.integers(len(nodes), size=len(cache)), random.choice(TRADE_OFFS, size=len(cache))
        view = views(cache.tree, gate, cache.features)[np.arange(len(cache)), index]
        table = policy.read(gate, nodes[index], view)
        whole, error = policy.decide(table, trade_off), policy.exit_error(table)
        for row in range(0, len(cache), 41):
            one = slice(row, row + 1)
            alone = policy.read(gate, nodes[index[one]], view[one])
            assert (
                policy.decide(alone, trade_off[one])[0]
                == policy.decide(table.take(one), trade_off[one])[0]
                == whole[row]
            )
            assert policy.exit_error(alone)[0] == error[row]


@pytest.mark.parametrize("which", [0, 1])
def test_a_limit_is_a_restriction_to_the_nodes_within_it(world, which: int) -> None:
    plan, _, cache = world
    policy, costs = world[which], plan.costs.routed
    for most in np.quantile(costs, [0.1, 0.4, 0.8]):
        limited = replace(plan, restrict=costs <= most)
        limited = limited if which == 0 else replace(policy, plan=limited)
        for gate in range(1, cache.tree.segments):
            node = int(cache.tree.nodes_at(gate)[-1])
            table, own = read(policy, cache, gate, node), read(limited, cache, gate, node)
            steps = policy.decide(table, knob(cache, 0.01), Limit(costs, np.full(len(cache), most)))
            assert (steps == limited.decide(own, knob(cache, 0.01))).all()
            ends = cache.tree.children[node, steps[steps != EXIT]]
            assert (costs[ends] <= most).all()


def test_values_by_first_step_are_the_least_over_all_that_begin_with_it(world) -> None:
    plan, _, cache = world
    for allowed in (None, *(np.array([set(p) == {b} for p in cache.tree.paths]) for b in cache.tree.precisions)):
        own = replace(plan, restrict=allowed)
        ahead, table = own.futures(1), read(own, cache, 1, 0)
        value = np.where(ahead.considered[0], table.columns[0] + 0.1 * ahead.cost[0], np.inf)
        found = own.values(table, knob(cache, 0.1))
        for step in range(EXIT, len(cache.tree.precisions)):
            with_it = value[:, ahead.first == step]
            wanted = with_it.min(axis=1) if with_it.shape[1] else np.full(len(cache), np.inf)
            assert np.array_equal(found[:, step - EXIT], wanted)


@pytest.mark.parametrize("which", [0, 1])
def test_one_segment_leaves_nothing_to_decide(world, which: int) -> None:
    tree = PathTree(["w4a4", "w8a8"], 1)
    ends = simulate(tree, world[which], np.zeros((5, 2, 3), np.float32), TRADE_OFFS)
    assert (ends == np.array([0, 1])[:, None, None]).all()


@pytest.mark.parametrize("which", [0, 1])
def test_behind_one_first_precision_per_trade_off_samples_leave_where_the_whole_simulation_says(
    world, which: int
) -> None:
    cache = world[2]
    first = np.arange(len(TRADE_OFFS)) % 2
    ends = simulate(cache.tree, world[which], cache.features, TRADE_OFFS)
    chosen = ends[first, :, np.arange(len(TRADE_OFFS))].T
    assert (simulate_behind(cache.tree, world[which], cache.features, TRADE_OFFS, first) == chosen).all()


def test_another_plan_made_from_one_remembers_nothing_of_it(world) -> None:
    plan, _, cache = world
    before = plan.futures(1)
    dearer = replace(plan, costs=replace(plan.costs, routed=2 * plan.costs.routed, decision=2 * plan.costs.decision))
    assert np.allclose(dearer.futures(1).cost, 2 * before.cost)
    assert plan.futures(1) is before
    setting = Setting({"validation": cache}, plan.costs)
    setting.uniform_costs(references=True)
    assert not replace(setting, points=7)._memo
