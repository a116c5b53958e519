"""Why an image took its path: the answer and the prediction at every gate, and the cost of static networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quee.paths import PathTree
from quee.policies.base import Router
from quee.precision import FLOAT

if TYPE_CHECKING:
    from quee.runtime.classifier import Routed


@dataclass(frozen=True)
class GateReport:
    """The facts of one gate that an image reached."""

    gate: int
    """Number of the gate, from 1."""
    precision: str
    """Precision of the segment before the gate."""
    label: int
    """Index of the class that the gate answers."""
    class_name: str
    """Its name."""
    probability: float
    """Probability of that class."""
    predicted_error: float | None
    """Predicted error probability of exiting here; None where nothing is predicted: at the last gate, and where the step is
    settled whatever the state is."""
    cost: float
    """Cost up to here, in units of the static w8a8 backbone."""


@dataclass(frozen=True)
class Explanation:
    """One image's path through the network, gate by gate."""

    label: int
    """Index of the class that is answered."""
    class_name: str
    """Its name."""
    probability: float
    """Probability of that class."""
    path: str
    """Precisions of the segments run."""
    cost: float
    """Cost, in units of the static w8a8 backbone."""
    policy: str
    """Name of the bundle's policy."""
    decided_by: str
    """Name of the policy that decided; another one where the bundle's is `auto`, which chooses by budget."""
    budget_met: bool
    """Whether the request could be met."""
    gates: tuple[GateReport, ...]
    """The gates that were reached, in order."""
    static: dict[str, float]
    """Cost of the static alternatives, by precision."""


class Trace:
    """Answers and their probabilities at each gate (n, segments); -1 and NaN at gates not reached."""

    def __init__(self, n: int, segments: int) -> None:
        self.label = np.full((n, segments), -1)
        self.probability = np.full((n, segments), np.nan)

    def __call__(self, gate: int, rows: np.ndarray, log_probs: np.ndarray) -> None:
        self.label[rows, gate - 1] = log_probs.argmax(axis=1)
        self.probability[rows, gate - 1] = np.exp(log_probs.max(axis=1))


def explained(
    routed: Routed,
    trace: Trace,
    policy: Router,
    name: str,
    classes: Sequence[str],
    static: Mapping[str, float],
) -> list[Explanation]:
    """One explanation per image; `name` is that of the bundle's policy."""
    tree = policy.tree

    def gate(row: int, position: int, node: int, cost: float) -> GateReport:
        predicted = np.nan if position == tree.segments - 1 else routed.predicted_error[row, position]
        return GateReport(
            position + 1,
            str(tree.paths[node][-1]),
            int(trace.label[row, position]),
            classes[trace.label[row, position]],
            float(trace.probability[row, position]),
            None if np.isnan(predicted) else float(predicted),
            cost,
        )

    return [
        Explanation(
            int(routed.label[row]),
            classes[routed.label[row]],
            float(routed.probabilities[row].max()),
            routed.path[row],
            float(routed.cost[row]),
            name or routed.decided_by[row],
            routed.decided_by[row],
            routed.budget_met,
            tuple(gate(row, i, n, c) for i, (n, c) in enumerate(_spent(policy, int(end), float(routed.knob[row])))),
            dict(static),
        )
        for row, end in enumerate(routed.node)
    ]


def _spent(policy: Router, end: int, knob: float) -> list[tuple[int, float]]:
    """The nodes on the way to an end, each with the cost up to it."""
    way = np.array(policy.tree.lineage(end))
    return list(zip(way.tolist(), policy.spent(way, np.full(len(way), knob)).tolist(), strict=True))


def static_costs(tree: PathTree, policy: Router, floating: float | None) -> dict[str, float]:
    """Costs of the static network at each of the tree's precisions, at w8a8 (1 by definition) and, where known, at fp32."""
    found = {}
    for precision in tree.precisions:
        path = (precision,) * tree.segments
        if path in tree:
            found[str(precision)] = float(policy.costs.static[tree.node(path)])
    found.setdefault("w8a8", 1.0)
    return found if floating is None else {**found, FLOAT: floating}
