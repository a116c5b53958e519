"""Sweeps: a method's operating points, with the error and cost of every sample at each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from quee.hull import hull
from quee.paths import PathTree
from quee.policies.base import Basis, Costs, Router, simulate, simulate_behind, wrong
from quee.policies.ceiling import served, taken
from quee.policies.networks import Predictors
from quee.policies.walks import walks_of

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache
    from quee.ensembles import Ensembles
    from quee.settings.policies import Policies


Fitted = TypeVar("Fitted")


@dataclass(frozen=True)
class Sweep:
    """Operating points P of one method; errors and costs by split, (S, P)."""

    name: str
    kind: str
    """`lambda`, `threshold`, `point` where the points are of several policies, or `path` where the method has no knob."""
    values: np.ndarray
    """(P,) values of λ or the threshold, or numbers of points."""
    errors: Mapping[str, np.ndarray]
    """(S, P): 0 or 1, or an expectation."""
    costs: Mapping[str, np.ndarray]
    nodes: Mapping[str, np.ndarray] | None = None
    """Node at which each sample exits, (S, P), for methods on the tree's paths."""
    dearest: float = 0.0
    """Most that a sample can cost under a policy; it is known before any sample is seen."""
    knobs: np.ndarray | None = None
    """(P,) the policy's knob at each point; None without a policy."""
    first: np.ndarray | None = None
    """(P,) index of the first precision at each point; None without a policy."""
    groups: np.ndarray | None = None
    """(V,) groups of the validation samples; None where the data set has none."""
    policies: tuple[str, ...] = ()
    """Name of the policy that serves each point, where they differ."""

    @classmethod
    def at(
        cls,
        name: str,
        errors: Mapping[str, np.ndarray],
        cost: np.ndarray,
        nodes: Mapping[str, np.ndarray] | None = None,
    ) -> "Sweep":
        """A sweep whose points cost the same for every sample."""
        costs = {split: np.broadcast_to(cost, e.shape) for split, e in errors.items()}
        spread = {s: np.broadcast_to(n, errors[s].shape) for s, n in nodes.items()} if nodes else None
        return cls(name, "path", np.full(len(cost), np.nan), errors, costs, spread)

    def by_columns(self) -> "Sweep":
        """The same sweep with points contiguous in memory, for means over samples."""
        errors, costs = ({s: np.asfortranarray(v) for s, v in by.items()} for by in (self.errors, self.costs))
        return replace(self, errors=errors, costs=costs)

    @cached_property
    def order(self) -> np.ndarray:
        """Points by rising validation cost; of points of equal cost, only the most accurate on validation."""
        cost, error = self.costs["validation"].mean(axis=0), self.errors["validation"].mean(axis=0)
        order = np.lexsort((error, cost))
        first = np.append(True, np.diff(cost[order]) > 1e-12)
        return order[first]

    @cached_property
    def validation_cost(self) -> np.ndarray:
        """(P',) rising mean costs of the ordered points."""
        return self.costs["validation"].mean(axis=0)[self.order]

    def weights(self, budget: float) -> tuple[np.ndarray, bool]:
        """Weights (P,) of the points that serve a budget, which is a ceiling, and whether it can be met.

        See `quee.policies.ceiling`; points are chosen on validation.
        """
        return self._weights(budget, self.taken)

    def spending(self, budget: float) -> tuple[np.ndarray, bool]:
        """Weights (P,) of the two neighbours by validation cost that spend a budget, whatever their accuracy.

        For `auc` and the whole curve: the best of many points on validation is better there than elsewhere.
        """
        return self._weights(budget, lambda last: last)

    def taken(self, last: int) -> int:
        """The ordered point that serves where `last` is the dearest within the budget."""
        if last not in self._taken:
            self._taken[last] = taken(self._ordered_errors, last, self.groups)
        return self._taken[last]

    def _weights(self, budget: float, take: Callable[[int], int]) -> tuple[np.ndarray, bool]:
        low, high, share, met = served(self.validation_cost, take, budget)
        weights = np.zeros(len(self.values))
        weights[self.order[low]] = 1 - share
        weights[self.order[high]] += share
        return weights, met

    @cached_property
    def _taken(self) -> dict[int, int]:
        return {}

    @cached_property
    def _ordered_errors(self) -> np.ndarray:
        return self.errors["validation"][:, self.order].astype(np.float64)


def hull_of(name: str, sweeps: Sequence[Sweep]) -> Sweep:
    """The points of several sweeps of one kind that lie on their upper convex hull on validation."""
    accuracy = np.concatenate([1 - s.errors["validation"].mean(axis=0) for s in sweeps])
    cost = np.concatenate([s.costs["validation"].mean(axis=0) for s in sweeps])
    kept = hull(cost, accuracy)

    def chosen(which: str) -> dict[str, np.ndarray]:
        parts = [getattr(s, which) for s in sweeps]
        return {split: np.concatenate([part[split] for part in parts], axis=1)[:, kept] for split in parts[0]}

    values = np.concatenate([s.values for s in sweeps])[kept]
    return Sweep(name, sweeps[0].kind, values, chosen("errors"), chosen("costs"))


@dataclass(frozen=True)
class Setting:
    """The data on which methods are compared: splits of one cache, including validation, with costs."""

    caches: Mapping[str, "FeatureCache"]
    costs: Costs
    points: int = 120
    training: "FeatureCache | None" = None
    """The predictor split, for policies that learn."""
    predictors: Predictors | None = None
    policies: Mapping[str, Router] = field(default_factory=dict)
    """Learned policies by name, already fitted."""
    options: "Policies | None" = None
    """The experiment's block `policies`; None means the defaults."""
    seed: int = 0
    _trained: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, compare=False)
    """What was fitted on `training` alone; settings with other splits and the same training share it."""
    _memo: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls, cache: "FeatureCache", splits: Sequence[str], options: "Policies | None" = None, points: int = 120
    ) -> "Setting":
        """The setting from a cache's splits; learned policies use its predictor split."""
        caches, training = {split: cache.of(split) for split in splits}, cache.of("predictor")
        costs = Costs.of(cache.tree, cache.description)
        learns = training if len(training) else None
        return cls(caches, costs, points, learns, options=options, seed=options.seed if options else 0)

    @cached_property
    def basis(self) -> Basis:
        return Basis(self.tree, self.caches["validation"].description, self.predictors)

    def remembered(self, name: str, fit: Callable[[], Fitted]) -> Fitted:
        """What `fit` made of the predictor split, once for all settings that are derived from this one."""
        key = (name, id(self.training))
        if key not in self._trained:
            self._trained[key] = self.training, fit()  # with the samples, so that no others get their id
        found: Fitted = self._trained[key][1]
        return found

    def along(self, name: str, nodes: Sequence[int], references: bool) -> "Setting":
        """A setting of one uniform precision; the nodes of its path become a tree of their own."""
        own, tree = self.uniform_costs(references), PathTree([name], len(nodes))
        segment, head, static = (own[key][nodes] for key in ("segment", "head", "static"))
        costs = Costs.along(tree, segment, head, np.zeros(len(nodes)), static)
        caches = {split: cache.along(tree, nodes, references) for split, cache in self.caches.items()}
        training = None if self.training is None else self.training.along(tree, nodes, references)
        return Setting(caches, costs, self.points, training)

    def grouped(self, sweep: Sweep) -> Sweep:
        """A sweep that knows the groups of the validation samples."""
        groups = self.caches["validation"].group
        return sweep if groups is None else replace(sweep, groups=groups)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.caches)

    @property
    def tree(self) -> PathTree:
        return self.caches["validation"].tree

    @property
    def feature_names(self) -> list[str]:
        names: list[str] = self.caches["validation"].description["feature_names"]
        return names

    def errors(self, split: str, references: bool = False) -> np.ndarray:
        """Errors of the nodes' answers."""
        cache = self.caches[split]
        return cache.reference_error if references else cache.error

    def own_errors(self, split: str, references: bool = False) -> np.ndarray:
        """Errors of the nodes' own heads: what a static path answers, which evaluates no other head."""
        own = self.caches[split].own_error
        return self.errors(split, references) if references or own is None else own

    @property
    def ensembles(self) -> "Ensembles | None":
        """The ensembles that answer at the tree's nodes; None where their own heads do."""
        return self.caches["validation"].ensembles

    @property
    def followed(self) -> np.ndarray:
        """(N,) cost of a path that is followed without decisions, with the heads that its answer needs."""
        return self.costs.static if self.ensembles is None else self.costs.of_exits(self.tree).routed

    def features(self, split: str, references: bool = False) -> np.ndarray:
        cache = self.caches[split]
        return cache.reference_features if references else cache.features

    def uniform(self) -> Iterator[tuple[str, list[int], bool]]:
        """Uniform precisions: name, nodes from the first gate to the last, and whether the nodes index the references."""
        description = self.caches["validation"].description
        for precision in self.tree.precisions:
            path = self.tree.node((precision,) * self.tree.segments)
            yield str(precision), self.tree.lineage(path), False
        for index, name in enumerate(description["reference_precisions"]):
            first = index * self.tree.segments
            yield name, list(range(first, first + self.tree.segments)), True

    def uniform_costs(self, references: bool) -> dict[str, np.ndarray]:
        """Costs `segment`, `head`, `static` by node of the tree, or of the references."""
        if not references:
            return {"segment": self.costs.segment, "head": self.costs.head, "static": self.costs.static}
        if not self._memo:
            records = self.caches["validation"].description["references"]
            keys = {"segment": "segment_cost", "head": "head_cost", "static": "cost"}
            self._memo["references"] = {k: np.array([r[key] for r in records]) for k, key in keys.items()}
        return self._memo["references"]

    def spent(self, nodes: Sequence[int], references: bool = False) -> np.ndarray:
        """Cost of exits along a lineage of nodes, including all heads that are evaluated: (gates,)."""
        costs = self.uniform_costs(references)
        found: np.ndarray = np.cumsum(costs["segment"][nodes] + costs["head"][nodes])
        return found


def routed_sweep(name: str, setting: Setting, policy: Router, first_step: str = "rollout") -> Sweep:
    """Simulate a policy at every knob.

    If the knob is λ, validation chooses the first precision per knob. `rollout` simulates the policy after each first
    precision. `marginal` takes the path with least mean error + λ · cost (the paper's reading of gate 0).
    """
    tree, knobs = setting.tree, policy.knobs(setting.points)
    first = policy.first(knobs)
    if first is None:
        first = (rollout_first if first_step == "rollout" else marginal_first)(setting, policy, knobs)
    nodes, errors = {}, {}
    for split, cache in setting.caches.items():
        walks = walks_of(policy, cache)
        nodes[split] = simulate_behind(tree, policy, cache.features, knobs, first, walks)
        errors[split] = wrong(policy, nodes[split], knobs, cache.error, walks)
    spent = {split: policy.spent(n, knobs) for split, n in nodes.items()}
    dearest = float(policy.costs.routed.max())
    shown = None if policy.kind == "threshold" else nodes  # tables of usage leave out policies by a threshold
    policies = tuple(names) if any(names := policy.names(knobs)) else ()
    groups = setting.caches["validation"].group
    return Sweep(name, policy.kind, policy.shown(knobs), errors, spent, shown, dearest, knobs, first, groups, policies)


def by_price(sweep: Sweep) -> Sweep:
    """The sweep with λ for its values. Of a sweep over points of several policies, those that some λ prefers on validation,
    each with a λ that prefers it."""
    if sweep.kind != "point":
        return sweep
    cost, accuracy = sweep.costs["validation"].mean(axis=0), 1 - sweep.errors["validation"].mean(axis=0)
    kept = hull(cost, accuracy)
    slope = np.diff(accuracy[kept]) / np.diff(cost[kept])  # a point is preferred between the slopes on its two sides
    between = np.sqrt(slope[1:] * slope[:-1])
    values = np.concatenate([2 * slope[:1], between, slope[-1:] / 2]) if len(slope) else np.zeros(1)
    errors, costs = ({s: v[:, kept] for s, v in by.items()} for by in (sweep.errors, sweep.costs))
    return Sweep(
        sweep.name,
        "lambda",
        values,
        errors,
        costs,
        dearest=sweep.dearest,
        knobs=None if sweep.knobs is None else sweep.knobs[kept],
        groups=sweep.groups,
        policies=tuple(sweep.policies[point] for point in kept) if sweep.policies else (),
    )


def rollout_first(setting: Setting, policy: Router, knobs: np.ndarray) -> np.ndarray:
    """(K,) first precision after which the policy is best on validation, at each λ."""
    cache = setting.caches["validation"]
    walks = walks_of(policy, cache)
    ends = simulate(setting.tree, policy, cache.features, knobs, walks)
    errors = (wrong(policy, end, knobs, cache.error, walks) for end in ends)
    score = [(e + knobs * policy.costs.routed[end]).mean(axis=0) for e, end in zip(errors, ends, strict=True)]
    return np.where((ends >= 0).all(axis=1), np.stack(score), np.inf).argmin(axis=0)  # over (B, Λ)


def marginal_first(setting: Setting, policy: Router, knobs: np.ndarray) -> np.ndarray:
    """(K,) first precision of the path with least mean error + λ · cost on validation."""
    error, tree = setting.errors("validation").mean(axis=0), setting.tree
    start = np.array([tree.choice[tree.lineage(node)[0]] for node in range(len(tree))])
    found: np.ndarray = start[(error[:, None] + policy.costs.routed[:, None] * knobs).argmin(axis=0)]
    return found
