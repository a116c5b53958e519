"""What all policies share: the interface, the costs they weigh, and the simulation of one over a cache.

A policy has one implementation, in numpy. It reads a state once and decides from what it read as often as there are
knobs: simulation asks for every knob of a sweep, the runtime once per sample with the sample's own knob.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from quee.paths import PathTree
from quee.policies.predictors import views

EXIT = -1
"""The step that leaves; any other is an index into the tree's precisions."""


@dataclass(frozen=True)
class Costs:
    """Costs by node, in units of the static w8a8 backbone."""

    segment: np.ndarray
    """(N,) the node's own segment."""
    head: np.ndarray
    """(N,) the exit head at the node's gate."""
    decision: np.ndarray
    """(N,) features and predictor at the node's gate; 0 at the last."""
    static: np.ndarray
    """(N,) the static path that ends here: its segments and its final head."""
    routed: np.ndarray
    """(N,) a routed sample that ends here: segments, heads and decisions at every gate visited."""

    @property
    def step(self) -> np.ndarray:
        """(N,) what going on to a node costs a routed sample."""
        return self.segment + self.head + self.decision

    @classmethod
    def of(cls, tree: PathTree, description: dict[str, Any], predictor_bitflops: Sequence[float] = ()) -> "Costs":
        """From `tree.json`; `predictor_bitflops[gate - 1]` is added to the decision at each gate before the last."""
        nodes = description["nodes"]
        segment, head, feature, static = (
            np.array([node[key] for node in nodes]) for key in ("segment_cost", "head_cost", "predictor_cost", "cost")
        )
        predictor = np.zeros(tree.segments + 1)
        predictor[1 : len(predictor_bitflops) + 1] = np.array(predictor_bitflops) / description["unit_bitflops"]
        decision = feature + predictor[tree.gate]
        total = segment + head + decision
        routed = np.zeros(len(tree))
        for node in range(len(tree)):
            routed[node] = total[node] + (routed[tree.parent[node]] if tree.parent[node] >= 0 else 0.0)
        return cls(segment, head, decision, static, routed)


@dataclass(frozen=True, slots=True)
class Table:
    """What a policy read of n states that stand at one gate: all that its decisions need, whatever the knob."""

    gate: int
    node: np.ndarray
    """(n,)"""
    columns: tuple[np.ndarray, ...]
    """Each (n, …); what they are is the policy's own affair."""

    def __len__(self) -> int:
        return len(self.node)

    def take(self, rows: np.ndarray | slice) -> "Table":
        return Table(self.gate, self.node[rows], tuple(column[rows] for column in self.columns))


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a sample may spend."""

    costs: np.ndarray
    """(N,) by node: what a sample that ends there has spent."""
    most: np.ndarray
    """(n,)"""


class Policy(Protocol):
    """Chooses the next step of samples at the gates before the last. Safe to call from several threads."""

    @property
    def tree(self) -> PathTree: ...

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        """Samples that stand at nodes (n,) of a gate, with the state features (n, gate · F) of the gates visited."""
        ...

    def decide(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """The next step (n,) of each sample at its knob (n,): EXIT or a precision's index, nowhere beyond the limit."""
        ...

    def exit_error(self, table: Table) -> np.ndarray:
        """Predicted error (n,) of leaving here."""
        ...


ROWS = 1024
"""Samples simulated at a time: what was read of them stays in a core's cache."""


def simulate(tree: PathTree, policy: Policy, features: np.ndarray, knobs: np.ndarray) -> np.ndarray:
    """Nodes at which samples leave behind every first precision: (B, S, K) int32; -1 where it is not considered.

    `features` (S, N, F) are the state features of a cache, `knobs` (K,). No network runs.
    """
    choices = range(len(tree.precisions))
    return _simulated(tree, policy, features, knobs, np.repeat(np.array(choices)[:, None], len(knobs), axis=1))


def simulate_behind(
    tree: PathTree, policy: Policy, features: np.ndarray, knobs: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """As `simulate`, behind one first precision per knob, `first` (K,): (S, K) int32."""
    return _simulated(tree, policy, features, knobs, first[None])[0]


def _simulated(
    tree: PathTree, policy: Policy, features: np.ndarray, knobs: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """(C, S, K) nodes at which samples leave behind first precisions (C, K)."""
    ends = np.empty((len(first), len(features), len(knobs)), np.int32)
    ends[:] = tree.children[-1][first][:, None]
    position = np.zeros(len(tree), np.int64)
    for gate in range(1, tree.segments):
        nodes = tree.nodes_at(gate)
        position[nodes] = np.arange(len(nodes))
    for start in range(0, len(features), ROWS):
        some = features[start : start + ROWS]
        tables = [_read_all(tree, policy, gate, some) for gate in range(1, tree.segments)]
        for way, column in np.ndindex(first.shape):
            here = ends[way, start : start + ROWS, column]
            if len(here) and here[0] < 0:
                continue
            standing = np.arange(len(here))
            for gate, table in enumerate(tables, 1):
                if not len(standing):
                    break
                node = here[standing]
                own = table.take(standing * len(tree.nodes_at(gate)) + position[node])
                step = policy.decide(own, np.full(len(own), knobs[column]))
                onward = step != EXIT
                standing = standing[onward]
                here[standing] = tree.children[node[onward], step[onward]]
    return ends


def _read_all(tree: PathTree, policy: Policy, gate: int, features: np.ndarray) -> Table:
    """All samples at all nodes of a gate, node by node within each sample."""
    seen = views(tree, gate, features)
    return policy.read(gate, np.tile(tree.nodes_at(gate), len(features)), seen.reshape(-1, seen.shape[2]))
