"""`plan`, the paper's policy (Fig. 2): take the first step of the path with least predicted error + λ · cost; repeat."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from quee.errors import IntegrityError
from quee.paths import PathTree
from quee.policies.base import EXIT, Basis, Costs, Limit, Policy, Table
from quee.policies.networks import Predictors, Read, prefixes
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.work.lookup import looked_up


@dataclass(frozen=True)
class Futures:
    """The continuations that any node of a gate considers: rows are nodes, columns suffixes."""

    kept: np.ndarray | None
    """Indices of the suffixes that are columns; "exit here" is always one. None means all."""
    cost: np.ndarray
    """(nodes, suffixes) remaining cost; 0 where not considered."""
    considered: np.ndarray
    """(nodes, suffixes)"""
    ends: np.ndarray
    """(nodes, suffixes) node at the end of a suffix; -1 where the tree has no such path."""
    first: np.ndarray
    """(suffixes,) first step of each suffix."""
    order: np.ndarray | slice
    """(suffixes,) order that sorts suffixes by first step, exit first; a slice where they are sorted already."""
    starts: np.ndarray
    """(steps,) start of each first step in that order."""
    place: np.ndarray | None
    """(1 + B,) place of each step, exit first, among the first steps that occur, or -1; None where all occur."""
    whole: bool
    """Whether every node considers every suffix."""
    read: Read

    @property
    def every(self) -> bool:
        """Whether every node has a value for every step."""
        return self.whole and self.place is None


@dataclass
class Plan(Policy):
    """π* = argmin p̂e(π) + λ (c(π) − c(n)) over the considered paths π that extend the node n.

    `restrict` (N,) marks the nodes that samples may visit, and `may_exit` the nodes where they may exit; by default all.
    """

    tree: PathTree
    costs: Costs
    predictors: Predictors
    restrict: np.ndarray | None = None
    may_exit: np.ndarray | None = None
    position: np.ndarray = field(init=False, repr=False)
    """(N,) row of each node among the nodes of its gate."""
    _futures: dict[int, Futures] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.stands = self.restrict
        self.position = np.zeros(len(self.tree), np.int64)
        for gate in range(1, self.tree.segments):
            nodes = self.tree.nodes_at(gate)
            self.position[nodes] = np.arange(len(nodes))

    @classmethod
    def of(cls, basis: Basis) -> "Plan":
        """The plan with costs from `tree.json`, including the predictors'."""
        if basis.predictors is None:
            raise IntegrityError("its predictors are missing")
        spent = [basis.predictors.bitflops(gate) for gate in range(1, basis.tree.segments)]
        return cls(basis.tree, Costs.of(basis.tree, basis.description, spent), basis.predictors)

    @classmethod
    def fit(cls, setting: Setting) -> "Plan":
        """Fits nothing; the plan needs only the predictors."""
        return cls.of(setting.basis)

    @classmethod
    def load(cls, basis: Basis, arrays: dict[str, np.ndarray]) -> "Plan":
        return cls.of(basis)

    def under(self, costs: Costs) -> "Plan":
        return replace(self, costs=costs)

    def futures(self, gate: int) -> Futures:
        if gate not in self._futures:
            self._futures[gate] = self._look_ahead(gate)
        return self._futures[gate]

    def _look_ahead(self, gate: int) -> Futures:
        tree, nodes, ends = self.tree, self.tree.nodes_at(gate), self.tree.extensions(gate)
        cost = np.where(ends >= 0, self.costs.routed[ends] - self.costs.routed[nodes][:, None], np.inf)
        # A planned exit costs no decision; the steps before it do.
        cost = np.where(ends == nodes[:, None], 0.0, cost - np.where(ends >= 0, self.costs.decision[ends], 0.0))
        for allowed in (self.may_exit, self.restrict):
            if allowed is not None:
                cost = np.where(allowed[ends], cost, np.inf)
        first = np.array([suffix[0] if suffix else EXIT for suffix in tree.suffixes(gate)], np.int64)
        used: np.ndarray = np.isfinite(cost).any(axis=0) | (first == EXIT)
        cost, ends, first = cost[:, used], ends[:, used], first[used]
        considered = np.isfinite(cost)
        order = np.argsort(first, kind="stable")
        present, starts = np.unique(first[order], return_index=True)
        place = np.full(1 + len(tree.precisions), -1)
        place[present - EXIT] = np.arange(len(present))
        return Futures(
            None if used.all() else np.flatnonzero(used),
            np.where(considered, cost, 0.0),
            considered,
            ends,
            first,
            slice(None) if (np.diff(order) == 1).all() else order,
            starts,
            None if len(present) == 1 + len(tree.precisions) else place,
            bool(considered.all()),
            self.predictors.reader(gate, prefixes(tree, gate)),
        )

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        """Columns: predicted errors p̂e (n, suffixes considered), and the predictor's hidden units (n, H); float32."""
        ahead = self.futures(gate)
        hidden, error = ahead.read(view, looked_up(self.position, node))
        return Table(gate, node, (error if ahead.kept is None else error[:, ahead.kept], hidden))

    def exit_error(self, table: Table) -> np.ndarray:
        found: np.ndarray = table.columns[0][:, 0]
        return found

    def decide(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        step: np.ndarray = looked_up(self.futures(table.gate).first, self._value(table, knob, limit).argmin(axis=1))
        return step

    def _value(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """Predicted error + λ · cost (n, suffixes), float64; infinite where not considered or beyond the limit."""
        ahead = self.futures(table.gate)
        rows = looked_up(self.position, table.node) if len(ahead.cost) > 1 else 0
        value = knob[:, None] * looked_up(ahead.cost, rows)
        value += table.columns[0]
        if limit is not None or not ahead.whole:
            allowed = looked_up(ahead.considered, rows)
            if limit is not None:
                total = np.where(ahead.considered & (ahead.ends >= 0), limit.costs[ahead.ends], np.inf)
                allowed = allowed & (looked_up(total, rows) <= limit.most[:, None])
            np.copyto(value, np.inf, where=~allowed)
        return value

    def values(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """Least predicted error + λ · cost per first step: (n, 1 + B), exit first; infinite where no path is considered."""
        ahead = self.futures(table.gate)
        found = np.minimum.reduceat(self._value(table, knob, limit)[:, ahead.order], ahead.starts, axis=1)
        if ahead.place is None:
            return found
        return np.where(ahead.place < 0, np.inf, found[:, ahead.place])


def plan_sweeps(setting: Setting) -> Iterator[Sweep]:
    """`quee_plan`, with the first precision by `policies.first_step`."""
    first_step = "rollout" if setting.options is None else setting.options.first_step
    yield routed_sweep("quee_plan", setting, plan_of(setting), first_step)


def restricted_sweeps(setting: Setting) -> Iterator[Sweep]:
    """`quee_plan_precisions_only`, which exits only at the last gate, and `quee_plan_exits_only_PRECISION`."""
    plan, tree = plan_of(setting), setting.tree
    full = tree.gate == tree.segments
    yield routed_sweep("quee_plan_precisions_only", setting, replace(plan, may_exit=full))
    for precision in tree.precisions:
        uniform = np.array([set(path) == {precision} for path in tree.paths])
        yield routed_sweep(f"quee_plan_exits_only_{precision}", setting, replace(plan, restrict=uniform))


def plan_of(setting: Setting) -> Plan:
    found = METHODS["plan"].of(setting)
    assert isinstance(found, Plan)
    return found
