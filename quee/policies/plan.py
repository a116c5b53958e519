"""`plan`, the paper's policy (Fig. 2): take the first step of the path with least predicted error + λ · cost, re-decide."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quee.paths import PathTree
from quee.policies.base import EXIT, Costs
from quee.predictors import Predictors


@dataclass
class Plan:
    """π* = argmin p̂e(π) + λ (c(π) − c(n)) over the considered paths π that extend the node n.

    `restrict` (N,) marks the nodes that may be stood at, and `may_exit` those that may be left at; by default all.
    """

    tree: PathTree
    costs: Costs
    predictors: Predictors
    restrict: np.ndarray | None = None
    may_exit: np.ndarray | None = None
    _future: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, tree: PathTree, description: dict[str, Any], predictors: Predictors) -> "Plan":
        """With costs from `tree.json`, the predictors' own among them."""
        spent = [predictors.bitflops(gate) for gate in range(1, tree.segments)]
        return cls(tree, Costs.of(tree, description, spent), predictors)

    def future(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        """(suffixes,) cost still to come along each suffix, infinite where not considered; and its first step."""
        if node not in self._future:
            gate = int(self.tree.gate[node])
            nodes = list(self.tree.nodes_at(gate))
            ends = self.tree.extensions(gate)[nodes.index(node)]
            cost = np.where(ends >= 0, self.costs.routed[ends] - self.costs.routed[node], np.inf)
            # A planned exit needs no decision; the steps on the way do.
            cost = np.where(ends == node, 0.0, cost - np.where(ends >= 0, self.costs.decision[ends], 0.0))
            if self.may_exit is not None:
                cost = np.where(self.may_exit[ends], cost, np.inf)
            if self.restrict is not None:
                cost = np.where(self.restrict[ends], cost, np.inf)
            first = np.array([s[0] if s else EXIT for s in self.tree.suffixes(gate)], dtype=np.int8)
            self._future[node] = cost, first
        return self._future[node]

    def predicted(self, node: int, inputs: np.ndarray) -> np.ndarray:
        """p̂e (S, suffixes)."""
        return self.predictors.predict(int(self.tree.gate[node]), inputs)

    def step(self, node: int, inputs: np.ndarray, trade_offs: np.ndarray) -> np.ndarray:
        cost, first = self.future(node)
        kept = np.flatnonzero(np.isfinite(cost))
        if not len(kept):  # nothing allowed goes on from here; the node is never stood at
            return np.full((len(inputs), len(trade_offs)), EXIT, np.int8)
        error, cost, first = self.predicted(node, inputs)[:, kept], cost[kept], first[kept]
        least = np.full((len(inputs), len(trade_offs)), np.inf)
        step = np.empty(least.shape, np.int8)
        for column, ahead in enumerate(np.multiply.outer(cost, trade_offs)):
            value = error[:, column, None] + ahead
            better = value < least  # of equal values the first, as argmin has it
            np.copyto(least, value, where=better)
            np.copyto(step, first[column], where=better)
        return step

    def values(self, node: int, inputs: np.ndarray, trade_offs: np.ndarray) -> np.ndarray:
        """Least predicted error + λ · cost by first step: (S, 1 + B, Λ), exit first; infinite where not considered."""
        cost, first = self.future(node)
        error = self.predicted(node, inputs)
        found = np.full((len(inputs), 1 + len(self.tree.precisions), len(trade_offs)), np.inf)
        for choice in range(-1, len(self.tree.precisions)):
            columns = np.flatnonzero((first == choice) & np.isfinite(cost))
            for column in columns:
                value = error[:, column, None] + trade_offs * cost[column]
                np.minimum(found[:, choice + 1], value, out=found[:, choice + 1])
        return found
