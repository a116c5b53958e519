"""The common part of all policies: their interface, their costs, and the simulation of a policy on a cache.

A policy has one implementation, in NumPy. It reads a state once and can decide on it for any number of knobs. The
simulation asks for every knob of a sweep, the runtime once per sample with the sample's own knob.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.features import UNCERTAINTY
from quee.paths import PathTree
from quee.policies.networks import Predictors, views

if TYPE_CHECKING:
    from quee.policies.sweep import Setting

EXIT = -1
"""The step that exits; any other step is an index into the tree's precisions."""
OPEN = -2
"""In place of a step that depends on the sample's state."""


@dataclass(frozen=True)
class Costs:
    """Costs by node, in units of the static w8a8 backbone."""

    segment: np.ndarray
    """(N,) the node's last segment."""
    head: np.ndarray
    """(N,) the exit head at the node's gate, and its ensemble with the heads before it, if that answers."""
    decision: np.ndarray
    """(N,) features and predictor at the node's gate; 0 at the last."""
    static: np.ndarray
    """(N,) a static path that ends at the node: its segments and its final head, which answers alone."""
    routed: np.ndarray
    """(N,) a routed sample that exits at the node: segments, heads and decisions at all gates visited."""

    @property
    def step(self) -> np.ndarray:
        """(N,) cost of a routed sample's step to the node."""
        return self.segment + self.head + self.decision

    @classmethod
    def of(cls, tree: PathTree, description: dict[str, Any], decision_bitflops: Sequence[float] = ()) -> "Costs":
        """Costs from `tree.json`; `decision_bitflops[gate - 1]` is added to the decision at each gate before the last."""
        nodes = description["nodes"]
        segment, head, feature, static = (
            np.array([node[key] for node in nodes]) for key in ("segment_cost", "head_cost", "predictor_cost", "cost")
        )
        head = head + np.array([node.get("ensemble_cost", 0.0) for node in nodes])
        own = np.zeros(tree.segments + 1)
        own[1 : len(decision_bitflops) + 1] = np.array(decision_bitflops) / description["unit_bitflops"]
        return cls.along(tree, segment, head, feature + own[tree.gate], static)

    @classmethod
    def along(
        cls, tree: PathTree, segment: np.ndarray, head: np.ndarray, decision: np.ndarray, static: np.ndarray
    ) -> "Costs":
        """Costs whose `routed` is summed along the tree's paths."""
        total = segment + head + decision
        routed = np.zeros(len(tree))
        for node in range(len(tree)):
            routed[node] = total[node] + (routed[tree.parent[node]] if tree.parent[node] >= 0 else 0.0)
        return cls(segment, head, decision, static, routed)

    def of_exits(self, tree: PathTree) -> "Costs":
        """Costs of a policy that reads only exit heads and pays for no other feature."""
        return Costs.along(tree, self.segment, self.head, np.zeros(len(tree)), self.static)


@dataclass(frozen=True)
class Basis:
    """Common inputs of one experiment's policies, in simulation and in a bundle."""

    tree: PathTree
    description: dict[str, Any]
    """`tree.json`"""
    predictors: Predictors | None = None
    """None where no policy needs them."""

    @property
    def feature_names(self) -> list[str]:
        names: list[str] = self.description["feature_names"]
        return names

    @cached_property
    def costs(self) -> Costs:
        """Costs with the features and without a predictor."""
        return Costs.of(self.tree, self.description)


@dataclass(frozen=True, slots=True)
class Table:
    """A policy's reading of n states at one gate: everything that its decisions need, for any knob."""

    gate: int
    node: np.ndarray
    """(n,)"""
    columns: tuple[np.ndarray, ...]
    """Each (n, …), as the policy defines them."""

    def __len__(self) -> int:
        return len(self.node)

    def take(self, rows: np.ndarray | slice) -> "Table":
        return Table(self.gate, self.node[rows], tuple(column[rows] for column in self.columns))


@dataclass(frozen=True, slots=True)
class Limit:
    """Limits on the cost of single samples."""

    costs: np.ndarray
    """(N,) cost of a sample that exits at the node."""
    most: np.ndarray
    """(n,)"""


@dataclass(frozen=True)
class Walk:
    """What a policy that carries numbers along its paths has at N nodes, for S samples; see `quee.policies.walks`."""

    carried: np.ndarray
    """(S, N, M)"""
    error: np.ndarray
    """(S, N) of the answers that samples get at the nodes under the policy."""


def trade_offs(points: int) -> np.ndarray:
    """λ (points,) of a sweep: 0, then geometric from 0.001 to 100."""
    return np.concatenate([[0.0], np.geomspace(1e-3, 100.0, points - 1)])


@dataclass(frozen=True)
class Part:
    """The samples, or points, that one policy serves."""

    policy: "Policy"
    name: str
    """Of the policy in the registry; empty for the one that is asked."""
    rows: np.ndarray | slice
    knob: np.ndarray
    """The policy's own knob for each of the rows."""


class Router(ABC):
    """What a bundle can hold and a curve can show: a policy, or points of several. Safe to call from several threads.

    A knob is λ unless the class defines another.
    """

    tree: PathTree
    costs: Costs
    """Costs of samples that it routes; where they differ from knob to knob, the dearest at each node."""
    kind = "lambda"
    """Column of the knob in the tables of a curve: `lambda` or `threshold`; any other name has no column."""
    priced = True
    """Whether the knob is λ, the price of a unit of cost."""

    @classmethod
    @abstractmethod
    def fit(cls, setting: "Setting") -> "Router | None":
        """It, fitted on a setting's predictor and validation splits; None where the data do not suffice."""

    @classmethod
    @abstractmethod
    def load(cls, basis: Basis, arrays: dict[str, np.ndarray]) -> "Router":
        """It, from its stored `arrays`."""

    @abstractmethod
    def parts(self, knob: np.ndarray) -> Iterator[Part]:
        """The policies that serve knobs (n,); every row is in one part."""

    @abstractmethod
    def policies(self) -> Mapping[str, "Policy"]:
        """All policies of its parts, by the parts' names."""

    def names(self, knob: np.ndarray) -> list[str]:
        """Name of the policy that serves each knob (n,); empty where it is the one that is asked."""
        parts = list(self.parts(knob))
        if len(parts) == 1:
            return [parts[0].name] * len(knob)
        found = np.full(len(knob), "", object)
        for part in parts:
            found[part.rows] = part.name
        return list(found)

    def spent(self, node: np.ndarray, knob: np.ndarray) -> np.ndarray:
        """Costs (…, n) of samples that exit at nodes (…, n), at knobs (n,)."""
        parts = list(self.parts(knob))
        if len(parts) == 1:
            return parts[0].policy.costs.routed[node]
        found = np.empty(node.shape)
        for part in parts:
            found[..., part.rows] = part.policy.costs.routed[node[..., part.rows]]
        return found

    def knobs(self, points: int) -> np.ndarray:
        """(K,) knobs of a sweep with about `points` points."""
        return trade_offs(points)

    def shown(self, knobs: np.ndarray) -> np.ndarray:
        """(K,) values of the knobs in the tables of a curve."""
        return knobs

    def first(self, knobs: np.ndarray) -> np.ndarray | None:
        """(K,) index of the first precision at each knob; None where validation chooses it."""
        return None

    def own_knob(self, knob: np.ndarray) -> np.ndarray:
        """(n,) the knobs, of the policies that serve knobs (n,), which `parts` gives them."""
        return knob

    @abstractmethod
    def under(self, costs: Costs) -> "Router":
        """The same under other costs, such as measured time."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that `load` needs besides the `Basis`."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Facts for the metrics of stage `policies`."""
        return {}

    def fault(self) -> str:
        """The fault of loaded arrays that do not fit together; empty if there is none."""
        return ""


class Policy(Router):
    """Chooses the next step of samples at the gates before the last.

    A policy must define how it is made (`fit`, `load`), what it reads of a state (`read`) and the value of each step
    (`values`, less is better). One that needs more of the gates passed than their state features carries numbers of its own
    from gate to gate (`carries`, `carry`).
    """

    carries = 0
    """Numbers M that it carries along a path."""
    mixes = False
    """Whether it makes answers of its own from log-probabilities, which a feature cache has of at most 100 classes."""
    classes = 0
    """Classes of the log-probabilities from which it makes answers of its own, in place of the nodes'; 0 where it makes none.
    Such a policy is shown what it carries and no state features, because these are of answers that its samples do not get."""

    measures: Collection[str] = UNCERTAINTY
    """The measures of uncertainty that it reads; at run time no others are computed for its samples."""
    together = 1
    """Number of knobs per call of the simulation; a larger number is faster for cheap decisions."""
    stands: np.ndarray | None = None
    """(N,) nodes that a sample can reach; None for all."""

    def parts(self, knob: np.ndarray) -> Iterator[Part]:
        yield Part(self, "", slice(None), knob)

    def policies(self) -> Mapping[str, "Policy"]:
        return {"": self}

    def carry(self, node: np.ndarray, before: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The numbers (n, M) that samples carry on from nodes (n,) of one gate, the last included, and the policy's own answers.

        `before` (n, M) are those of the gate before, 0 at gate 1. `said` (n,) are the classes that the nodes answer; for a
        policy with `classes`, (n, gate, classes) log-probabilities of the heads visited, as the feature cache keeps them.
        The policy's own answers are log-probabilities (n, classes); None without `classes`.
        """
        raise NotImplementedError(f"{type(self).__name__} carries {self.carries} numbers, but does not say which")

    def seen(self, features: np.ndarray, carried: np.ndarray) -> np.ndarray:
        """The view (…, V) of features (…, gate · F) of the gates visited and of the numbers (…, M) carried."""
        if not self.carries:
            return features
        return carried if self.classes else np.concatenate([features, carried], axis=-1)

    @abstractmethod
    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        """Read samples at nodes (n,) of a gate; `view` (n, gate · F) has the state features of the gates visited, and after
        them the numbers that the policy carries, if it does (`seen`)."""

    @abstractmethod
    def values(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """Value of each step at the samples' knobs (n,): (n, 1 + B), exit first; the least is best. Infinite where a step is not
        considered or not allowed."""

    @abstractmethod
    def exit_error(self, table: Table) -> np.ndarray:
        """Predicted error (n,) of exiting here."""

    def decide(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """The next step (n,) of each sample at its knob (n,): EXIT or a precision's index, within the limit."""
        step: np.ndarray = self.values(table, knob, limit).argmin(axis=1) + EXIT
        return step

    def settled(self, gate: int, node: np.ndarray, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray | None:
        """What `decide` says (n,) of samples at nodes (n,) of a gate where it says so whatever their states are, and OPEN
        elsewhere; None where all steps are open. What is settled is neither read nor decided at run time."""
        return None

    @abstractmethod
    def under(self, costs: Costs) -> "Policy":
        """The policy under other costs."""


ROWS = 1024
"""Samples simulated at a time; their readings fit into a core's cache."""


Walks = Mapping[str, Walk]
"""By the part's name, the walks of the policies that carry numbers along their paths."""


def simulate(
    tree: PathTree, policy: Router, features: np.ndarray, knobs: np.ndarray, walks: Walks | None = None
) -> np.ndarray:
    """Nodes at which samples exit after every first precision: (B, S, K) int32; -1 where it is not considered.

    `features` (S, N, F) are the state features of a cache, `knobs` (K,); policies that carry numbers along their paths need
    their `walks` on it. No network runs.
    """
    choices = range(len(tree.precisions))
    return _routed(tree, policy, features, knobs, np.repeat(np.array(choices)[:, None], len(knobs), axis=1), walks)


def simulate_behind(
    tree: PathTree,
    policy: Router,
    features: np.ndarray,
    knobs: np.ndarray,
    first: np.ndarray,
    walks: Walks | None = None,
) -> np.ndarray:
    """Like `simulate`, with one first precision per knob, `first` (K,): (S, K) int32."""
    return _routed(tree, policy, features, knobs, first[None], walks)[0]


def wrong(router: Router, node: np.ndarray, knob: np.ndarray, error: np.ndarray, walks: Walks) -> np.ndarray:
    """Errors (S, K) of samples that exit at nodes (S, K) at knobs (K,), from errors (S, N) of the nodes' answers and walks."""
    found = np.take_along_axis(error, node, axis=1)
    for part in router.parts(knob):
        if (own := walks.get(part.name)) is not None:
            found[:, part.rows] = np.take_along_axis(own.error, node[:, part.rows], axis=1)
    return found


def _routed(
    tree: PathTree,
    router: Router,
    features: np.ndarray,
    knobs: np.ndarray,
    first: np.ndarray,
    walks: Walks | None,
) -> np.ndarray:
    ends = np.empty((len(first), len(features), len(knobs)), np.int32)
    for part in router.parts(knobs):
        carried = np.empty((*features.shape[:2], 0))
        if part.policy.carries:
            carried = (walks or {})[part.name].carried
        ends[:, :, part.rows] = _simulated(tree, part.policy, features, carried, part.knob, first[:, part.rows])
    return ends


def _simulated(
    tree: PathTree, policy: Policy, features: np.ndarray, carried: np.ndarray, knobs: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """(C, S, K) nodes at which samples exit after first precisions (C, K); -1 where a path is not considered."""
    start_at = tree.children[-1][first]
    if policy.stands is not None:
        start_at = np.where((start_at >= 0) & policy.stands[start_at], start_at, -1)
    ends = np.empty((len(first), len(features), len(knobs)), np.int32)
    ends[:] = start_at[:, None]
    stood_at = [_stood_at(tree, policy, gate) for gate in range(1, tree.segments)]
    position = np.zeros(len(tree), np.int64)
    for nodes in stood_at:
        position[nodes] = np.arange(len(nodes))
    for start in range(0, len(features), ROWS):
        some = features[start : start + ROWS], carried[start : start + ROWS]
        tables = [_read_all(tree, policy, gate, nodes, *some) for gate, nodes in enumerate(stood_at, 1)]
        for way in range(len(first)):
            for column in range(0, len(knobs), policy.together):
                own = slice(column, column + policy.together)
                here = ends[way, start : start + ROWS, own]
                node = here.ravel()
                row, which = np.divmod(np.arange(len(node)), here.shape[1])
                knob = knobs[own][which]
                standing = np.flatnonzero(node >= 0)
                for table, nodes in zip(tables, stood_at, strict=True):
                    if not len(standing):
                        break
                    at = node[standing]
                    seen = table.take(row[standing] * len(nodes) + position[at])
                    step = policy.decide(seen, knob[standing])
                    onward = step != EXIT
                    standing = standing[onward]
                    node[standing] = tree.children[at[onward], step[onward]]
                here[:] = node.reshape(here.shape)
    return ends


def _stood_at(tree: PathTree, policy: Policy, gate: int) -> np.ndarray:
    nodes = tree.nodes_at(gate)
    return nodes if policy.stands is None else nodes[policy.stands[nodes]]


def _read_all(
    tree: PathTree, policy: Policy, gate: int, nodes: np.ndarray, features: np.ndarray, carried: np.ndarray
) -> Table:
    """All samples at some nodes of a gate, node by node within each sample."""
    seen = policy.seen(views(tree, gate, features, nodes), carried[:, nodes])
    return policy.read(gate, np.tile(nodes, len(features)), seen.reshape(len(features) * len(nodes), -1))
