"""A policy laid out in tables, so that one call decides for samples at any nodes of a gate and at any trade-offs.

The policies themselves answer for one node and many trade-offs, as a sweep asks; here every sample has its own node, λ
and limit. Both give the same steps.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quee.policies import EXIT, FittedQ, Plan


@dataclass(frozen=True)
class _Gate:
    """Tables of one gate; `position[node]` is a node's row in them."""

    prefix: np.ndarray
    """(nodes, prefix) what a predictor sees of the way here."""
    cost: np.ndarray
    """(nodes, suffixes) cost still to come, infinite where not considered."""
    total: np.ndarray
    """(nodes, suffixes) routed cost of where the suffix ends."""
    first: np.ndarray
    """(suffixes,) first step of each suffix."""


class Router:
    """Decides at gates 1 … L-1."""

    def __init__(self, policy: Plan | FittedQ, costs: np.ndarray) -> None:
        """`costs` (N,) are the routed costs by node that limits are held against."""
        self.policy, self.costs = policy, costs
        self.plan = policy.plan if isinstance(policy, FittedQ) else policy
        self.tree = policy.tree
        self.position = np.zeros(len(self.tree), np.int64)
        self._gates = [self._tables(gate) for gate in range(1, self.tree.segments)]

    def _tables(self, gate: int) -> _Gate:
        tree, nodes = self.tree, self.tree.nodes_at(gate)
        self.position[nodes] = np.arange(len(nodes))
        lineages = np.array([tree.lineage(int(node)) for node in nodes])
        prefix = np.eye(len(tree.precisions), dtype=np.float32)[tree.choice[lineages]].reshape(len(nodes), -1)
        found = [self.plan.future(int(node)) for node in nodes]
        cost, ends = np.stack([own for own, _ in found]), tree.extensions(gate)
        total = np.where(ends >= 0, self.costs[ends], np.inf)
        return _Gate(prefix, cost, total, found[0][1].astype(np.int64))

    @cached_property
    def _weights(self) -> list[np.ndarray]:
        """By gate (knots, H + 1, steps)."""
        assert isinstance(self.policy, FittedQ)
        return [np.ascontiguousarray(w.transpose(2, 0, 1)) for w in self.policy.weights]

    def decide(
        self, gate: int, node: np.ndarray, features: np.ndarray, trade_off: np.ndarray, max_cost: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next step (n,), EXIT or a precision's index, and the predicted error of leaving here (n,).

        Samples stand at `node` (n,) with `features` (n, ≥ gate, F) of the nodes visited, and go nowhere whose routed
        cost is above `max_cost` (n,).
        """
        table, rows = self._gates[gate - 1], self.position[node]
        seen = features[:, :gate].reshape(len(node), -1)
        inputs = np.concatenate([seen, table.prefix[rows]], axis=1)
        error = self.plan.predictors.predict(gate, inputs)  # (n, suffixes)
        cost = table.cost[rows]
        allowed = np.isfinite(cost) & (table.total[rows] <= max_cost[:, None])
        value = np.where(allowed, error + trade_off[:, None] * np.where(allowed, cost, 0.0), np.inf)
        if isinstance(self.policy, FittedQ):
            step = self._fitted(gate, inputs, value, table.first, trade_off)
        else:
            step = table.first[value.argmin(axis=1)]
        return step, error[:, 0]

    def _fitted(
        self, gate: int, inputs: np.ndarray, value: np.ndarray, first: np.ndarray, trade_off: np.ndarray
    ) -> np.ndarray:
        policy = self.policy
        assert isinstance(policy, FittedQ)
        lambdas, column = np.unique(trade_off, return_inverse=True)
        right = np.clip(np.searchsorted(policy.knots, lambdas), 1, len(policy.knots) - 1)
        low, high = policy.knots[right - 1], policy.knots[right]
        share = ((lambdas - low) / (high - low))[:, None, None]
        weights = self._weights[gate - 1]
        own = (weights[right - 1] * (1 - share) + weights[right] * share)[column]  # (n, H + 1, steps)
        hidden = self.plan.predictors.networks[gate - 1].hidden(inputs)
        # Summed in a fixed order, where a matrix product's last bits depend on how many rows it has.
        fitted = (hidden[:, :, None] * own[:, :-1]).sum(axis=1) + own[:, -1]
        planned = np.full_like(fitted, np.inf)
        for step in range(fitted.shape[1]):
            if (columns := np.flatnonzero(first == step - 1)).size:
                planned[:, step] = value[:, columns].min(axis=1)
        blend = np.interp(trade_off, policy.knots, policy.blend[gate - 1])[:, None]
        known = np.isfinite(planned)
        mixed = np.where(known, blend * fitted + (1 - blend) * np.where(known, planned, 0.0), np.inf)
        return mixed.astype(np.float32).argmin(axis=1) + EXIT
