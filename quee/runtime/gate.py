"""What happens at a gate, written once for arrays of samples: it is traced into the gate graphs of a bundle, which other
runtimes execute, and their results are compared with it.

The executor does the same on its table of samples, and leaves out what no decision needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quee.ensembles import Ensembles, as_cached
from quee.errors import DisagreementError
from quee.evenly import evenly
from quee.features import UNCERTAINTY, state_features
from quee.policies.base import EXIT, Limit, Policy, Router, Table
from quee.runtime.canary import Canary, step_name
from quee.runtime.executor import carried_on
from quee.runtime.operating import Point
from quee.work.lookup import looked_up

KEPT = {"heads": "heads_before", "features": "features_before", "carried": "carried_before"}
"""What a gate leaves for the gates behind it: the outputs, and the inputs that take them at the next gate."""
MARGIN = 1e-6
"""How far a graph's numbers may be from NumPy's, relatively where they are above 1; steps differ where they are worth the same
within it. Runtimes take exponentials and logarithms in other ways."""
POINTS = 4
"""Most operating points of a policy at which its graphs are compared."""


def gate_name(policy: str, gate: int) -> str:
    """Name of the file with the graph of a gate, counted from 1."""
    return f"{policy}.gate{gate}.onnx"


@dataclass(frozen=True)
class Gate:
    """A gate of a tree, counted from 1, where one policy of a router decides."""

    router: Router
    policy: str
    """Its name in the router; empty where the router is the policy."""
    ensembles: Ensembles | None
    gate: int

    @property
    def own(self) -> Policy:
        return self.router.policies()[self.policy]

    @property
    def last(self) -> bool:
        return self.gate == self.router.tree.segments

    @property
    def mixes(self) -> bool:
        """Whether an answer needs the log-probabilities of the heads before."""
        return self.ensembles is not None or self.own.classes > 0

    def shapes(self, classes: int, features: int, embedding: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Type of each input, and its sizes behind the number of samples n; `features` is the number of a gate's own.

        `logits` and `embedding` are of the segment's graph, `node` is where a sample stands, `knob` that of its operating
        point, `max_cost` what it may cost at most, infinite without such a limit. The others are what the gate before left:
        `heads_before` the log-probabilities of the heads until there, as cached, `features_before` the state features, and
        `carried_before` the numbers that the policy carries. Where a size is 0, there is no input.
        """
        found: dict[str, tuple[Any, tuple[int, ...]]] = {
            "logits": (np.float32, (classes,)),
            "embedding": (np.float32, (embedding,)),
            "node": (np.int64, ()),
            "knob": (np.float64, ()),
            "max_cost": (np.float64, ()),
        }
        if self.gate > 1:
            if self.mixes:
                found["heads_before"] = (np.float16, (self.gate - 1, classes))
            found["features_before"] = (np.float32, ((self.gate - 1) * features,))
            found["carried_before"] = (np.float64, (self.own.carries,))
        return {name: value for name, value in found.items() if all(value[1])}

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs from the inputs of `shapes`.

        `log_probs` (n, classes), float64, are those of the answer; `cost` (n,) is what an exit here costs; `step` (n,) is
        EXIT or the index of the next segment's precision. Before the last gate also `next` (n,), the node that the step
        leads to, -1 for an exit, `error` (n,), the predicted error of an exit, and what is left for the gates behind (KEPT).
        """
        own, tree, node = self.own, self.router.tree, given["node"]
        log_probs, found = self._answer(given)
        found |= {"log_probs": log_probs, "cost": looked_up(own.costs.routed, node)}
        if self.last:
            return {**found, "step": node * 0 + EXIT}
        table = self._table(given, found)
        step = own.decide(table, *self._asked(given))
        onward = np.where(step == EXIT, -1, looked_up(tree.children, node, step))
        return {**found, "error": own.exit_error(table).astype(np.float64), "next": onward, "step": step}

    def values(self, given: Mapping[str, Any]) -> np.ndarray:
        """The value of each step (n, 1 + B), exit first, before the last gate."""
        return self.own.values(self._table(given, self._answer(given)[1]), *self._asked(given))

    def _answer(self, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Log-probabilities (n, classes) of the answer, and what is left for the gates behind."""
        own, node, found = self.own, given["node"], dict[str, Any]()
        log_probs, features = state_features(given["logits"], given.get("embedding"))
        if self.mixes:
            found["heads"] = self._with_before(given, "heads", as_cached(log_probs)[:, None])
        if self.ensembles is not None and not own.classes:
            log_probs, features = self.ensembles(node, found["heads"], features)
        if own.carries:
            before = given["carried_before"] if self.gate > 1 else node[:, None] * np.zeros((1, own.carries))
            found["carried"], log_probs = carried_on(own, node, before, found.get("heads"), log_probs)
        if not self.last:
            found["features"] = self._with_before(given, "features", features)
        return log_probs, found

    def _with_before(self, given: Mapping[str, Any], name: str, own: Any) -> Any:
        return own if self.gate == 1 else np.concatenate([given[KEPT[name]], own], axis=1)

    def _table(self, given: Mapping[str, Any], found: Mapping[str, Any]) -> Table:
        return self.own.read(self.gate, given["node"], self.own.seen(found["features"], found.get("carried")))  # type: ignore[arg-type]

    def _asked(self, given: Mapping[str, Any]) -> tuple[Any, Limit]:
        """The policy's own knobs, and the limits of cost."""
        return self.router.own_knob(given["knob"]), Limit(self.own.costs.routed, given["max_cost"])

    def differs(self, given: Mapping[str, Any], graph: Mapping[str, np.ndarray]) -> str:
        """How a graph's outputs differ from what NumPy makes of the same inputs by more than MARGIN; empty if they do not."""
        expected = self(given)
        same = graph["step"] == expected["step"]
        for name, value in graph.items():
            want = expected[name]
            if (value.dtype, value.shape) != (want.dtype, want.shape):
                return f"{name} is {value.dtype} {value.shape} instead of {want.dtype} {want.shape}"
            if name == "step":
                continue
            if name == "next":
                value, want = value[same], want[same]
            apart = ~np.isclose(value, want, rtol=MARGIN, atol=MARGIN, equal_nan=True)
            if apart.any():
                return f"{name} {value[apart][0]} instead of {want[apart][0]}"
        rows = np.flatnonzero(~same)
        if len(rows):
            values = self.values(given)[rows]
            one, other = (values[np.arange(len(rows)), step[rows] - EXIT] for step in (graph["step"], expected["step"]))
            gap = np.abs(np.subtract(one, other, out=np.zeros(len(rows)), where=one != other))  # both may be infinite
            if not (gap <= MARGIN).all():
                return f"{len(rows)} steps differ, by up to {gap.max():.2g} in value"
        return ""


def check_gates(
    folder: Path,
    gates: Mapping[str, Sequence[str]],
    router: Router,
    ensembles: Ensembles | None,
    points: Sequence[Point],
    canary: Canary,
) -> int:
    """Compare the gate graphs of a bundle, executed by ONNX Runtime, with NumPy on what the canary's heads say.

    Every policy is asked at each node where its samples can stand, at a few of its points. Returns the number of graphs.
    Raises DisagreementError naming the graph that differs.
    """
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for policy, files in gates.items():
        sessions = [InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"]) for name in files]
        name = policy if policy in router.policies() else ""
        own = [point.trade_off for point in points if point.policy == policy]
        knobs = np.array(own)[evenly(len(own), POINTS)]
        for gate, given in _asked(router, name, ensembles, knobs, canary):
            session = sessions[gate.gate - 1]
            ran = session.run(None, {value.name: given[value.name] for value in session.get_inputs()})
            found = {value.name: array for value, array in zip(session.get_outputs(), ran, strict=True)}
            if reason := gate.differs(given, found):
                raise DisagreementError(
                    f"{folder / files[gate.gate - 1]} disagrees with NumPy, which it was traced from: {reason}; "
                    "make the bundle anew"
                )
    return sum(map(len, gates.values()))


def _asked(
    router: Router, policy: str, ensembles: Ensembles | None, knobs: np.ndarray, canary: Canary
) -> Iterator[tuple[Gate, dict[str, np.ndarray]]]:
    """The gates of every node where a policy's samples can stand, with inputs for the canary's images at knobs (k,)."""
    tree, stands = router.tree, router.policies()[policy].stands
    times, left = len(knobs), dict[int, dict[str, np.ndarray]]()
    for node in range(len(tree)):  # a parent's number is below its children's
        if stands is not None and not stands[node]:
            continue
        gate = Gate(router, policy, ensembles, int(tree.gate[node]))
        name = step_name(gate.gate, tree.precisions[tree.choice[node]])
        logits, features = (canary.arrays[f"{name}.{kind}"].astype(np.float32) for kind in ("log_probs", "features"))
        rows = times * len(canary)
        given = {
            "logits": np.tile(logits, (times, 1)),
            "embedding": np.tile(features[:, len(UNCERTAINTY) :], (times, 1)),
            "node": np.full(rows, node),
            "knob": np.repeat(knobs, len(canary)),
            "max_cost": np.full(rows, np.inf),
            **left.get(int(tree.parent[node]), {}),
        }
        found = gate(given)
        left[node] = {KEPT[name]: value for name, value in found.items() if name in KEPT}
        yield gate, given
