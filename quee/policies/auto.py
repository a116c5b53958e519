"""`auto`: by budget, of all policies that can be deployed, the best on validation beyond doubt, or else the simplest.

It is a list of points, each a policy of the registry with that policy's knob and first precision; the knob is the number
of a point. So one curve and one bundle take several policies. `quee.policies.choosing` says how they are chosen.

Simple is what validation has to choose little of, because few validation samples choose badly: first the policies that learn
on the predictor split, for which validation finds what a price costs, then those by thresholds, in the registry's order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.errors import IntegrityError
from quee.groups import folds_of
from quee.paths import PathTree
from quee.policies.base import Basis, Costs, Part, Policy, Router
from quee.policies.choosing import by_budget, default_of, errors_of, nested, points_chosen
from quee.policies.registry import deployable
from quee.policies.sweep import Setting, Sweep, routed_sweep
from quee.work.lookup import looked_up

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache

NAME = "auto"
BUDGETS = 24
"""Budgets at which policies are chosen, log-uniform over the range of costs."""
FOLDS = 4
POINTS = 60
"""Points of the sweeps that it is put together from, and half as many where policies are judged."""
HELD = "held"
"""Name of the samples on which a fold's fits are judged, in its setting."""


@dataclass(frozen=True)
class Member:
    """A policy, and the points that it serves."""

    policy: Policy
    points: np.ndarray
    """(k,) their numbers among all points."""
    knob: np.ndarray
    """(k,) the policy's own."""
    first: np.ndarray
    """(k,) index of the first precision."""

    def arrays(self) -> dict[str, np.ndarray]:
        own = {f"own.{name}": value for name, value in self.policy.arrays().items()}
        return {"points": self.points, "knob": self.knob, "first": self.first, **own}


@dataclass
class Auto(Router):
    """Points P of several policies."""

    kind = "point"
    priced = False

    tree: PathTree
    members: Mapping[str, Member]
    """By the policy's name in the registry, in its order."""
    _facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, setting: Setting) -> "Auto":
        only = replace(setting, caches={"validation": setting.caches["validation"]}, points=POINTS)
        policies, sweeps = _swept(only, NAME)
        names = list(sweeps)
        budgets = np.geomspace(
            min(float(s.validation_cost[0]) for s in sweeps.values()),
            max(float(s.validation_cost[-1]) for s in sweeps.values()),
            BUDGETS,
        )
        chosen, facts = _judged(only, names, budgets)
        points = points_chosen(list(sweeps.values()), chosen, budgets)
        members = {}
        for index, name in enumerate(names):
            own = np.array([at for at, (which, _) in enumerate(points) if which == index], np.int64)
            if len(own):
                sweep, at = sweeps[name], np.array([points[number][1] for number in own])
                assert sweep.knobs is not None
                assert sweep.first is not None
                members[name] = Member(policies[name], own, sweep.knobs[at], sweep.first[at].astype(np.int64))
        return cls(setting.tree, members, facts)

    @classmethod
    def load(cls, basis: Basis, arrays: dict[str, np.ndarray]) -> "Auto":
        known, members = deployable(), {}
        names = {key.partition(".")[0] for key in arrays}
        if odd := sorted(names - set(known) | names & {NAME}):
            raise IntegrityError(f"it has points of policy {odd[0]!r}, which there is not here")
        for name, method in known.items():
            if name in names:
                own = {k.partition(".")[2]: v for k, v in arrays.items() if k.partition(".")[0] == name}
                arrays_of = {k.partition(".")[2]: v for k, v in own.items() if k.startswith("own.")}
                policy = method.kind.load(basis, arrays_of)
                assert isinstance(policy, Policy)
                members[name] = Member(policy, own["points"], own["knob"], own["first"])
        return cls(basis.tree, members)

    @cached_property
    def costs(self) -> Costs:  # type: ignore[override]
        """At each node those of the dearest of its policies."""
        every = [member.policy.costs for member in self.members.values()]
        return Costs(*(np.max([getattr(own, name.name) for own in every], axis=0) for name in fields(Costs)))

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(P,) member, the policy's own knob and first precision of each point."""
        count = sum(len(member.points) for member in self.members.values())
        owner, knob, first = np.zeros(count, np.int64), np.zeros(count), np.zeros(count, np.int64)
        for index, member in enumerate(self.members.values()):
            owner[member.points], knob[member.points], first[member.points] = index, member.knob, member.first
        return owner, knob, first

    @cached_property
    def _listed(self) -> list[tuple[str, Member]]:
        return list(self.members.items())

    def parts(self, knob: np.ndarray) -> Iterator[Part]:
        which, knob = self._table[0][knob.astype(np.int64)], self.own_knob(knob)
        present = sorted(set(which.tolist()))
        for index in present:
            name, member = self._listed[index]
            if len(present) == 1:
                yield Part(member.policy, name, slice(None), knob)
            else:
                rows = (which == index).nonzero()[0]
                yield Part(member.policy, name, rows, knob[rows])

    def policies(self) -> Mapping[str, Policy]:
        return {name: member.policy for name, member in self.members.items()}

    def knobs(self, points: int) -> np.ndarray:
        """All points, whatever the number that a sweep asks for."""
        return np.arange(len(self._table[0]), dtype=np.float64)

    def own_knob(self, knob: np.ndarray) -> np.ndarray:
        found: np.ndarray = looked_up(self._table[1], knob.astype(np.int64))
        return found

    def first(self, knobs: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._table[2][knobs.astype(np.int64)]
        return found

    def under(self, costs: Costs) -> "Auto":
        timed = {name: replace(member, policy=member.policy.under(costs)) for name, member in self.members.items()}
        return Auto(self.tree, timed)

    def arrays(self) -> dict[str, np.ndarray]:
        return {f"{name}.{key}": value for name, m in self.members.items() for key, value in m.arrays().items()}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def fault(self) -> str:
        if not self.members:
            return "it has no points"
        begins = np.flatnonzero(self.tree.children[-1] >= 0)
        points = np.concatenate([member.points for member in self.members.values()])
        if sorted(points.tolist()) != list(range(len(points))):
            return "its points are not numbered in order"
        for name, member in self.members.items():
            if fault := member.policy.fault():
                return f"{name}: {fault}"
            if not len(member.points) == len(member.knob) == len(member.first):
                return f"{name}: its points, knobs and first precisions differ in number"
            if not np.isin(member.first, begins).all():
                return f"{name}: a point begins with a precision that is unknown here"
            most = np.inf if member.policy.priced else len(member.policy.knobs(0))
            if not ((member.knob >= 0) & (member.knob < most)).all():
                return f"{name}: a knob that the policy does not have"
        return ""


def _swept(setting: Setting, without: str, only: list[str] | None = None) -> tuple[dict[str, Policy], dict[str, Sweep]]:
    """Every deployable policy that can be fitted, and its sweep on the setting, by name; the simplest first."""
    policies, sweeps = {}, {}
    for name, method in sorted(deployable().items(), key=lambda item: not item[1].learned):
        if name == without or (only is not None and name not in only):
            continue
        if method.learned and name not in setting.policies:
            continue
        policy = method.of(setting)
        if isinstance(policy, Policy):
            policies[name], sweeps[name] = policy, routed_sweep(name, setting, policy)
    return policies, sweeps


def _judged(setting: Setting, names: list[str], budgets: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The candidate (budgets,) chosen at each budget, with facts about the choice."""
    cache = setting.caches["validation"]
    fold = folds_of(len(cache), cache.group, FOLDS, setting.seed)
    if len(np.unique(fold)) < FOLDS:
        return np.zeros(len(budgets), np.int64), {
            "budgets": dict.fromkeys(_named(budgets), names[0]),
            "default": names[0],
        }
    errors = np.full((len(names), len(cache), len(budgets)), np.nan)
    for held in range(FOLDS):
        part = _without(setting, cache, fold == held)
        for name, sweep in _swept(part, NAME, names)[1].items():
            errors[names.index(name), fold == held] = errors_of(sweep, budgets, HELD)
    servable = np.isfinite(errors).all(axis=1)
    errors[np.broadcast_to(~servable[:, None], errors.shape)] = np.nan  # a budget is met in every fold or in none
    chosen = by_budget(errors, budgets, cache.group)
    common = np.isfinite(errors).all(axis=(0, 1))
    alone = 1 - errors[:, :, common].mean(axis=(1, 2))
    itself = 1 - float(nested(errors, budgets, cache.group, fold)[:, common].mean())
    return chosen, {
        "accuracy": {**{name: float(value) for name, value in zip(names, alone, strict=True)}, NAME: itself},
        "budgets": {key: names[index] for key, index in zip(_named(budgets), chosen, strict=True)},
        "default": names[default_of(errors, cache.group)],
    }


def _named(budgets: np.ndarray) -> list[str]:
    return [f"{budget:.4g}" for budget in budgets]


def _without(setting: Setting, cache: "FeatureCache", held: np.ndarray) -> Setting:
    """The setting whose validation samples are those not held; the held ones are a split of their own."""
    caches = {"validation": cache.select(~held), HELD: cache.select(held)}
    return replace(setting, caches=caches, points=POINTS // 2)
