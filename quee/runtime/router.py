"""A policy laid out in tables, so that one call decides for samples at any nodes of a gate and at any trade-offs.

The policies themselves answer for one node and many trade-offs, as a sweep asks; here every sample has its own node, λ
and limit. Both give the same steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from quee.policies import EXIT, FittedQ, Plan
from quee.policies.fitted_q import interpolate
from quee.runtime.forward import Forward

REMEMBERED = 64
"""Trade-offs, up to which weights are added to those at hand."""


@dataclass(frozen=True)
class _Gate:
    """Tables of one gate; `position[node]` is a node's row in them."""

    cost: np.ndarray
    """(nodes, suffixes) cost still to come, 0 where not considered."""
    considered: np.ndarray
    """(nodes, suffixes)"""
    total: np.ndarray
    """(nodes, suffixes) routed cost of where the suffix ends; infinite where not considered."""
    first: np.ndarray
    """(suffixes,) first step of each suffix."""
    order: np.ndarray | slice
    """(suffixes,) suffixes by first step, exit first; a slice where they are so already."""
    starts: np.ndarray
    """(1 + B,) where each first step begins in that order."""
    absent: np.ndarray | None
    """(1 + B,) whether no suffix begins with a step; None where every step has one."""
    whole: bool
    """Whether everything is considered, from everywhere."""
    forward: Forward


@dataclass(frozen=True)
class _Fitted:
    """What fitted values at a gate are read with, at a few trade-offs."""

    trade_offs: np.ndarray
    """(k + 1,) rising, infinity at the end."""
    weights: np.ndarray
    """(k, steps, H), float64, times the share of the fitted values in a decision."""
    bias: np.ndarray
    """(k, steps), likewise."""
    rest: np.ndarray
    """(k, 1) share of the plan's."""

    def rows(self, trade_off: np.ndarray) -> np.ndarray | None:
        """Where trade-offs (n,) are among these, or None where some are not."""
        found = self.trade_offs.searchsorted(trade_off)
        return None if np.count_nonzero(self.trade_offs[found] != trade_off) else found


class Router:
    """Decides at gates 1 … L-1. Safe to call from several threads."""

    def __init__(self, policy: Plan | FittedQ, costs: np.ndarray) -> None:
        """`costs` (N,) are the routed costs by node that limits are held against."""
        self.policy, self.costs = policy, costs
        self.plan = policy.plan if isinstance(policy, FittedQ) else policy
        self.tree = policy.tree
        self.position = np.zeros(len(self.tree), np.int64)
        self._gates = [self._tables(gate) for gate in range(1, self.tree.segments)]
        self._fitted: dict[int, _Fitted] = {}

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
        by_step = slice(None) if (np.diff(order) == 1).all() else order
        forward = Forward(self.plan.predictors.networks[gate - 1], prefix)
        costs = np.where(considered, cost, 0.0)
        return _Gate(
            costs,
            considered,
            total,
            first,
            by_step,
            starts,
            absent if absent.any() else None,
            bool(considered.all()),
            forward,
        )

    def decide(
        self,
        gate: int,
        node: np.ndarray,
        features: np.ndarray,
        trade_off: np.ndarray,
        max_cost: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next step (n,), EXIT or a precision's index, and the predicted error of leaving here (n,).

        Samples stand at `node` (n,) with `features` (n, gate · F) of the nodes visited, and go nowhere whose routed
        cost is above `max_cost` (n,).
        """
        table = self._gates[gate - 1]
        rows = self.position[node] if len(table.cost) > 1 else 0
        hidden, logits = table.forward(features, rows)
        error = expit(logits)  # (n, suffixes)
        value = trade_off[:, None] * table.cost[rows]
        value += error
        limited = not table.whole or max_cost is not None
        if limited:
            allowed = table.considered[rows]
            if max_cost is not None:
                allowed = allowed & (table.total[rows] <= max_cost[:, None])
            np.copyto(value, np.inf, where=~allowed)
        if isinstance(self.policy, FittedQ):
            step = self._blended(gate, hidden, value, trade_off, limited)
        else:
            step = table.first[value.argmin(axis=1)]
        return step, error[:, 0]

    def _blended(
        self, gate: int, hidden: np.ndarray, value: np.ndarray, trade_off: np.ndarray, limited: bool
    ) -> np.ndarray:
        """Next steps by fitted and planned values, from the plan's `value` (n, suffixes)."""
        table = self._gates[gate - 1]
        mixed = np.minimum.reduceat(value[:, table.order], table.starts, axis=1)  # (n, 1 + B)
        unknown = None
        if limited or table.absent is not None:
            unknown = np.isinf(mixed)
            if table.absent is not None:
                unknown |= table.absent
            mixed[unknown] = 0.0
        read, rows = self._at(gate, trade_off)
        # Summed in a fixed order, where a matrix product's last bits depend on how many rows it has.
        fitted = np.add.reduce(hidden.astype(np.float64)[:, None, :] * read.weights[rows], axis=2)
        fitted += read.bias[rows]
        mixed *= read.rest[rows]
        mixed += fitted
        if unknown is not None:
            mixed[unknown] = np.inf
        return mixed.astype(np.float32).argmin(axis=1) + EXIT

    def _at(self, gate: int, trade_off: np.ndarray) -> tuple[_Fitted, np.ndarray]:
        """What trade-offs (n,) are read with, remembered for the next call, and each one's row."""
        known = self._fitted.get(gate)
        rows = None if known is None else known.rows(trade_off)
        if known is None or rows is None:
            wanted = set(trade_off.tolist())
            if known is not None and len(wanted) + len(known.rest) <= REMEMBERED:
                wanted.update(known.trade_offs[:-1].tolist())
            known = self._fitted[gate] = self._read_at(gate, sorted(wanted))
            rows = known.rows(trade_off)
            assert rows is not None
        return known, rows

    def _read_at(self, gate: int, trade_offs: Sequence[float]) -> _Fitted:
        policy = self.policy
        assert isinstance(policy, FittedQ)
        at = np.array(trade_offs)
        weights = interpolate(policy.weights[gate - 1], policy.knots, at)  # (H + 1, steps, k)
        share = np.interp(at, policy.knots, policy.blend[gate - 1])
        weights *= share
        return _Fitted(
            np.append(at, np.inf), weights[:-1].transpose(2, 1, 0).copy(), weights[-1].T.copy(), 1 - share[:, None]
        )
