"""What all policies share: the costs they weigh, and the simulation of one over a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from quee.paths import PathTree

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


class Policy(Protocol):
    """Chooses the next step of samples standing at a node."""

    def step(self, node: int, inputs: np.ndarray, trade_offs: np.ndarray) -> np.ndarray:
        """Predictor inputs (S, D) at a node before the last gate, λ (Λ,) → steps (S, Λ), int8: EXIT or a precision's index."""
        ...


def simulate(tree: PathTree, policy: Policy, inputs: Sequence[np.ndarray], trade_offs: np.ndarray) -> np.ndarray:
    """Nodes at which samples leave behind every first precision: (B, S, Λ) int32; -1 where it is not considered.

    `inputs[gate - 1]` are predictor inputs (S, nodes at the gate, D). No network runs.
    """
    samples = len(inputs[0]) if inputs else 0
    width = len(trade_offs)
    rows, columns = np.arange(samples)[:, None], np.arange(width)[None, :]
    position = np.zeros(len(tree), dtype=np.int64)
    ends = np.full((len(tree.precisions), samples, width), -1, dtype=np.int32)
    for first in range(len(tree.precisions)):
        if tree.children[-1, first] >= 0:
            ends[first] = tree.children[-1, first]
    for gate in range(1, tree.segments):
        nodes = tree.nodes_at(gate)
        position[nodes] = np.arange(len(nodes))
        steps = np.stack([policy.step(int(n), inputs[gate - 1][:, i], trade_offs) for i, n in enumerate(nodes)])
        for first in range(len(tree.precisions)):
            here = ends[first]
            standing = tree.gate[here] == gate
            step = np.where(standing, steps[position[here], rows, columns], EXIT)
            ends[first] = np.where(step == EXIT, here, tree.children[here, step])
    return ends
