"""All methods on one setting: QuEE's policies, their restrictions, the baselines, the oracle."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from quee.evaluation.curves import Floor
from quee.evaluation.sweep import Setting, Sweep
from quee.policies.base import Costs, Policy, simulate, simulate_behind
from quee.policies.baselines import BASELINES
from quee.policies.fitted_q import FittedQ
from quee.policies.oracle import oracle_nodes
from quee.policies.plan import Plan
from quee.policies.random_routing import random_routing


def trade_offs(points: int) -> np.ndarray:
    """λ (points,) of a sweep: 0, then geometric from 0.001 to 100."""
    return np.concatenate([[0.0], np.geomspace(1e-3, 100.0, points - 1)])


def routed_sweep(
    name: str,
    setting: Setting,
    policy: Policy,
    costs: Costs,
    first_step: str = "rollout",
    marginal: Callable[[np.ndarray], np.ndarray] | None = None,
    allowed_first: np.ndarray | None = None,
) -> Sweep:
    """Simulate a policy at every λ; the first precision is chosen per λ on validation, by rollout or by `marginal`."""
    values, tree = trade_offs(setting.points), setting.tree
    if first_step == "rollout" or marginal is None:
        rows = np.arange(len(setting.caches["validation"]))[:, None]
        score = np.stack(
            [
                (setting.errors("validation")[rows, end] + values * costs.routed[end]).mean(axis=0)
                for end in simulate(tree, policy, setting.features("validation"), values)
            ]
        )  # (B, Λ)
        considered = tree.children[-1] >= 0
        allowed = considered if allowed_first is None else considered & allowed_first
        first = np.where(allowed[:, None], score, np.inf).argmin(axis=0)
    else:
        first = marginal(values)
    nodes = {split: simulate_behind(tree, policy, setting.features(split), values, first) for split in setting.splits}
    errors = {split: np.take_along_axis(setting.errors(split), n, axis=1) for split, n in nodes.items()}
    spent = {split: costs.routed[n] for split, n in nodes.items()}
    return Sweep(name, "lambda", values, errors, spent, nodes, float(costs.routed.max()))


def marginal_first(setting: Setting, costs: Costs) -> Callable[[np.ndarray], np.ndarray]:
    """First precision of the path with least mean error + λ · cost on validation (the paper's reading of gate 0)."""
    error = setting.errors("validation").mean(axis=0)
    tree = setting.tree
    start = np.array([tree.choice[tree.lineage(node)[0]] for node in range(len(tree))])
    return lambda values: start[(error[:, None] + costs.routed[:, None] * values).argmin(axis=0)]


def quee_sweeps(setting: Setting, plan: Plan, fitted: FittedQ, first_step: str) -> Iterator[Sweep]:
    tree, costs = setting.tree, plan.costs
    fitted_costs = Costs.of(
        tree, setting.caches["validation"].description, [fitted.bitflops(g) for g in range(1, tree.segments)]
    )
    marginal = marginal_first(setting, costs)
    yield routed_sweep("quee_plan", setting, plan, costs, first_step, marginal)
    yield routed_sweep("quee_fitted_q", setting, fitted, fitted_costs)
    full = tree.gate == tree.segments
    yield routed_sweep("quee_plan_precisions_only", setting, replace(plan, may_exit=full), costs)
    for index, precision in enumerate(tree.precisions):
        uniform = np.array([set(path) == {precision} for path in tree.paths])
        only = replace(plan, restrict=uniform)
        allowed = np.arange(len(tree.precisions)) == index
        yield routed_sweep(f"quee_plan_exits_only_{precision}", setting, only, costs, allowed_first=allowed)


def oracle_sweep(setting: Setting) -> Sweep:
    values = trade_offs(setting.points)
    nodes = {split: oracle_nodes(cache, setting.costs.static, values) for split, cache in setting.caches.items()}
    errors = {split: np.take_along_axis(setting.errors(split), n, axis=1) for split, n in nodes.items()}
    costs = {split: setting.costs.static[n] for split, n in nodes.items()}
    return Sweep("oracle", "lambda", values, errors, costs, nodes)


def all_sweeps(setting: Setting, plan: Plan, fitted: FittedQ, first_step: str) -> Iterator[Sweep]:
    """Every method, QuEE's last."""
    yield from fixed_sweeps(setting)
    yield from fitted_sweeps(setting, plan, fitted, first_step)


def fixed_sweeps(setting: Setting) -> Iterator[Sweep]:
    """Methods into which no seed goes: the oracle and the baselines."""
    yield oracle_sweep(setting)
    for name in BASELINES:
        yield from BASELINES[name](setting)


def fitted_sweeps(setting: Setting, plan: Plan, fitted: FittedQ, first_step: str) -> Iterator[Sweep]:
    """Methods that depend on what was fitted: the policies, their restrictions, random routing at the plan's usage."""
    for sweep in quee_sweeps(setting, plan, fitted, first_step):
        if sweep.name == "quee_plan":
            yield random_routing(setting, sweep)
        yield sweep


def constant_floor(setting: Setting) -> Floor:
    """Always the class most frequent on validation."""
    frequent = np.bincount(setting.caches["validation"].label).argmax()
    return Floor({split: (cache.label != frequent).astype(float) for split, cache in setting.caches.items()})
