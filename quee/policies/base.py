"""What all policies share: the costs they weigh, and the simulation of one over a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from quee.paths import PathTree
from quee.threads import one_thread

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


ROWS = 512
"""Samples simulated at a time: what they need, (rows, Λ) at double precision, stays in a core's cache."""


@one_thread()
def simulate(
    tree: PathTree, policy: Policy, inputs: Sequence[np.ndarray], trade_offs: np.ndarray, samples: int | None = None
) -> np.ndarray:
    """Nodes at which samples leave behind every first precision: (B, S, Λ) int32; -1 where it is not considered.

    `inputs[gate - 1]` are predictor inputs (S, nodes at the gate, D); a tree of one segment has none, and takes the
    number of `samples`. No network runs.
    """
    count = _count(inputs, samples)
    found = [_behind(tree, policy, inputs, trade_offs, first, count) for first in range(len(tree.precisions))]
    return np.stack(found)


def _count(inputs: Sequence[np.ndarray], samples: int | None) -> int:
    if not inputs and samples is None:
        raise ValueError("a tree of one segment has no inputs: give the number of samples")
    return len(inputs[0]) if samples is None else samples


@one_thread()
def simulate_behind(
    tree: PathTree,
    policy: Policy,
    inputs: Sequence[np.ndarray],
    trade_offs: np.ndarray,
    first: np.ndarray,
    samples: int | None = None,
) -> np.ndarray:
    """As `simulate`, behind one first precision per trade-off, `first` (Λ,): (S, Λ) int32."""
    count = _count(inputs, samples)
    ends = np.full((count, len(trade_offs)), -1, dtype=np.int32)
    for choice in np.unique(first):
        columns = np.flatnonzero(first == choice)
        ends[:, columns] = _behind(tree, policy, inputs, trade_offs[columns], int(choice), count)
    return ends


def _behind(
    tree: PathTree,
    policy: Policy,
    inputs: Sequence[np.ndarray],
    trade_offs: np.ndarray,
    first: int,
    samples: int,
) -> np.ndarray:
    """(S, Λ) nodes at which samples leave behind one first precision."""
    root = tree.children[-1, first]
    ends = np.full((samples, len(trade_offs)), root, dtype=np.int32)
    if root < 0:
        return ends
    for start in range(0, samples, ROWS):
        here = ends[start : start + ROWS]
        for gate in range(1, tree.segments):
            for index, node in enumerate(tree.nodes_at(gate)):
                standing = here == node
                columns = np.flatnonzero(standing.any(axis=0))
                if not len(columns):
                    continue
                rows = np.flatnonzero(standing.any(axis=1))
                step = policy.step(int(node), inputs[gate - 1][start + rows, index], trade_offs[columns])
                at = np.ix_(rows, columns)
                here[at] = np.where(standing[at] & (step != EXIT), tree.children[node, step], here[at])
    return ends
