"""A policy laid out in tables, so that one call decides for samples at any nodes of a gate and at any trade-offs.

The policies themselves answer for one node and many trade-offs, as a sweep asks; here every sample has its own node, λ
and limit. Both give the same steps.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from quee.policies import EXIT, FittedQ, Plan
from quee.runtime.forward import Forward

REMEMBERED = 1024
"""Trade-offs whose fitted weights are kept."""


@dataclass(frozen=True)
class _Gate:
    """Tables of one gate; `position[node]` is a node's row in them."""

    prefix: np.ndarray
    """(nodes, prefix) what a predictor sees of the way here."""
    cost: np.ndarray
    """(nodes, suffixes) cost still to come, 0 where not considered."""
    considered: np.ndarray
    """(nodes, suffixes)"""
    total: np.ndarray
    """(nodes, suffixes) routed cost of where the suffix ends; infinite where not considered."""
    first: np.ndarray
    """(suffixes,) first step of each suffix."""
    order: np.ndarray
    """(suffixes,) suffixes by first step, exit first."""
    starts: np.ndarray
    """(1 + B,) where each first step begins in that order."""
    absent: np.ndarray
    """(1 + B,) whether no suffix begins with a step."""
    whole: bool
    """Whether everything is considered, from everywhere."""
    forward: Forward


@dataclass(frozen=True)
class _Fitted:
    """What one trade-off's fitted values at a gate are read with."""

    weights: np.ndarray
    """(steps, H), float64."""
    bias: np.ndarray
    """(steps,)"""
    blend: float


class Router:
    """Decides at gates 1 … L-1. Safe to call from several threads."""

    def __init__(self, policy: Plan | FittedQ, costs: np.ndarray) -> None:
        """`costs` (N,) are the routed costs by node that limits are held against."""
        self.policy, self.costs = policy, costs
        self.plan = policy.plan if isinstance(policy, FittedQ) else policy
        self.tree = policy.tree
        self.position = np.zeros(len(self.tree), np.int64)
        self._gates = [self._tables(gate) for gate in range(1, self.tree.segments)]
        self._remembered: dict[tuple[int, float], _Fitted] = {}

    def _tables(self, gate: int) -> _Gate:
        tree, nodes = self.tree, self.tree.nodes_at(gate)
        self.position[nodes] = np.arange(len(nodes))
        lineages = np.array([tree.lineage(int(node)) for node in nodes])
        prefix = np.eye(len(tree.precisions), dtype=np.float32)[tree.choice[lineages]].reshape(len(nodes), -1)
        found = [self.plan.future(int(node)) for node in nodes]
        cost, ends = np.stack([own for own, _ in found]), tree.extensions(gate)
        considered = np.isfinite(cost)
        total = np.where(considered & (ends >= 0), self.costs[ends], np.inf)
        first = found[0][1].astype(np.int64)
        order = np.argsort(first, kind="stable")
        steps = np.arange(EXIT, len(tree.precisions))
        starts = np.searchsorted(first[order], steps).clip(max=len(order) - 1)
        absent = ~np.isin(steps, first)
        forward = Forward(self.plan.predictors.networks[gate - 1])
        costs = np.where(considered, cost, 0.0)
        return _Gate(prefix, costs, considered, total, first, order, starts, absent, bool(considered.all()), forward)

    def decide(
        self, gate: int, node: np.ndarray, features: np.ndarray, trade_off: np.ndarray, max_cost: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next step (n,), EXIT or a precision's index, and the predicted error of leaving here (n,).

        Samples stand at `node` (n,) with `features` (n, ≥ gate, F) of the nodes visited, and go nowhere whose routed
        cost is above `max_cost` (n,).
        """
        table, rows = self._gates[gate - 1], self.position[node]
        inputs = np.concatenate([features[:, :gate].reshape(len(node), -1), table.prefix[rows]], axis=1)
        hidden, logits = table.forward(inputs)
        error = expit(logits)  # (n, suffixes)
        value = error + trade_off[:, None] * table.cost[rows]
        if not table.whole or np.isfinite(max_cost).any():
            allowed = table.total[rows] <= max_cost[:, None]
            allowed &= table.considered[rows]
            np.copyto(value, np.inf, where=~allowed)
        if isinstance(self.policy, FittedQ):
            step = self._fitted(gate, hidden, value, table, trade_off)
        else:
            step = table.first[value.argmin(axis=1)]
        return step, error[:, 0]

    def _fitted(
        self, gate: int, hidden: np.ndarray, value: np.ndarray, table: _Gate, trade_off: np.ndarray
    ) -> np.ndarray:
        planned = np.minimum.reduceat(value[:, table.order], table.starts, axis=1)  # (n, 1 + B)
        lambdas = sorted(set(trade_off.tolist()))
        each = [self._at(gate, value) for value in lambdas]
        weights, bias, blend = each[0].weights, each[0].bias, np.asarray(each[0].blend)
        if len(each) > 1:
            which = np.searchsorted(lambdas, trade_off)
            weights, bias = np.stack([e.weights for e in each])[which], np.stack([e.bias for e in each])[which]
            blend = np.array([e.blend for e in each])[which, None]
        # Summed in a fixed order, where a matrix product's last bits depend on how many rows it has.
        fitted = (hidden[:, None, :] * weights).sum(axis=2)
        fitted += bias
        unknown = np.isinf(planned) | table.absent
        planned[unknown] = 0.0
        mixed = blend * fitted + (1 - blend) * planned
        mixed[unknown] = np.inf
        return mixed.astype(np.float32).argmin(axis=1) + EXIT

    def _at(self, gate: int, trade_off: float) -> _Fitted:
        if (found := self._remembered.get((gate, trade_off))) is None:
            policy = self.policy
            assert isinstance(policy, FittedQ)
            knots, weights = policy.knots, policy.weights[gate - 1]  # (H + 1, steps, knots)
            right = int(np.clip(np.searchsorted(knots, trade_off), 1, len(knots) - 1))
            share = (trade_off - knots[right - 1]) / (knots[right] - knots[right - 1])
            own = weights[..., right - 1] * (1 - share) + weights[..., right] * share
            blend = float(np.interp(trade_off, knots, policy.blend[gate - 1]))
            found = _Fitted(np.ascontiguousarray(own[:-1].T), own[-1].copy(), blend)
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[gate, trade_off] = found
        return found
