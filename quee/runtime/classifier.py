"""AdaptiveClassifier: routes images through the network under a budget, as the simulation does."""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from quee.ensembles import Ensembles
from quee.errors import UsageError
from quee.measure import Measure, measure_of
from quee.paths import PathTree
from quee.policies.base import Router
from quee.precision import Precision
from quee.runtime.canary import Canary, steps_of
from quee.runtime.conventions import FittedClassifier
from quee.runtime.engines import Engine, torch_engine
from quee.runtime.engines.graphs import LARGEST, GraphEngine
from quee.runtime.engines.probe import AutoEngine
from quee.runtime.executor import Executor, Flight, draws
from quee.runtime.explanation import Explanation, Trace, explained, static_costs
from quee.runtime.images import Images, checked, prepare
from quee.runtime.operating import Asked, Expected, Guarantee, Operating, OperatingPoints, Options, Point, asked
from quee.runtime.profile import Profile
from quee.runtime.stream import Stream
from quee.runtime.timed import timed_points
from quee.runtime.view import View

if TYPE_CHECKING:
    from quee.network.execution import MultiPrecisionBackbone

TIMED = 8
"""Number of batch sizes whose policy under measured time is kept; each costs a simulation and memory."""
_TIMING = Lock()

SIZES = 3
"""Sizes of each step that images take that a growing limit has room for: with fewer, small batches take several times as long."""


@dataclass(frozen=True)
class Routed:
    """Results of n images."""

    label: np.ndarray
    """(n,) class indices."""
    probabilities: np.ndarray
    """(n, classes) probabilities of the answer at the gate where each sample exits."""
    node: np.ndarray
    """(n,) node at which each sample exits."""
    path: list[str]
    """Precisions of the segments run, per image, such as `w4a4-w8a8`."""
    cost: np.ndarray
    """(n,) in units of the static w8a8 backbone, including heads and predictors."""
    budget_met: bool
    """Whether the request could be met."""
    predicted_error: np.ndarray
    """(n, gates before the last) predicted error of exiting at each gate that decides by the state; NaN at the others."""
    knob: np.ndarray
    """(n,) the policy's knob for each sample: λ, or the number of a point."""
    decided_by: list[str]
    """Name of the policy that decided for each sample: of a bundle of `auto`, the one that `auto` chose for the budget."""

    @staticmethod
    def joined(parts: Sequence["Routed"]) -> "Routed":
        """The results of one part or more after another; the budget is met where all meet it."""
        if len(parts) == 1:
            return parts[0]
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("label", "probabilities", "node", "cost", "predicted_error", "knob")
        }
        path = [name for part in parts for name in part.path]
        decided_by = [name for part in parts for name in part.decided_by]
        return Routed(**arrays, path=path, decided_by=decided_by, budget_met=all(part.budget_met for part in parts))


@dataclass(frozen=True)
class Start:
    """First steps and knobs of n samples."""

    first: np.ndarray
    """(n,) index of the first segment's precision."""
    trade_off: np.ndarray
    """(n,)"""
    max_cost: float | None
    met: bool


class AdaptiveClassifier(FittedClassifier):
    """A classifier whose budget is chosen per call by `Options`. For scikit-learn it is a fitted classifier.

    A sample's prediction, path and cost do not depend on its batch. Safe to call from several threads.
    """

    def __init__(
        self,
        view: View,
        policy: Router,
        costs: np.ndarray,
        points: Sequence[Point],
        classes: Sequence[str],
        budget: float,
        description: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
        ensembles: Ensembles | None = None,
    ) -> None:
        """`costs` (N,) are the routed costs by node; `points` rise in cost; the default engine is torch.

        Without `ensembles`, every exit answers with its own head alone.
        """
        self.view, self.policy, self.costs = view, policy, costs
        self.points, self.classes, self.budget = list(points), list(classes), budget
        self.description = description or {}
        self.engine = engine or torch_engine(view)
        self.transform = view.input
        self.executor = Executor(self.engine, policy, len(view.names), ensembles)
        self.paths = np.array([self.tree.name(node) for node in range(len(self.tree))], dtype=object)
        self.profile: Profile | None = None
        """Times on this machine, if the bundle was profiled."""
        self.digest = ""
        """SHA-256 of the bundle's description, if there is one."""
        self.float_cost: float | None = None
        """Cost of the static float network, if the bundle says it."""
        self.by_time = False
        """Whether costs and budgets of its points are milliseconds per image, see `timed`."""
        self.counting = policy
        """The policy that says what an image cost, in units of the static w8a8 backbone."""
        self.validation: Mapping[str, np.ndarray] = {}
        """Samples for finding operating points under another cost, see `quee.runtime.timed`."""
        self.canary: Canary | None = None
        """The reference's results that engines are compared with, if the bundle has them."""
        self._timed: OrderedDict[int, tuple[Profile, AdaptiveClassifier]] = OrderedDict()
        self._operating = OperatingPoints(self.tree, costs, self.points, budget, policy.priced, self.guarantees)

    @property
    def backbone(self) -> "MultiPrecisionBackbone":
        """The networks; an engine other than torch does without, and loads them, with PyTorch, when they are asked for."""
        return self.view.backbone

    @property
    def tree(self) -> PathTree:
        """The considered paths."""
        return self.policy.tree

    @property
    def policy_name(self) -> str:
        """Name of the bundle's policy, such as `auto`; empty without a bundle."""
        return str(self.description.get("policy", ""))

    @property
    def measure(self) -> Measure:
        """What the points' accuracy is: of answers as people labelled, or as the float network's own."""
        return measure_of(self.description)

    @property
    def classes_(self) -> np.ndarray:
        """(classes,) the values that `predict` returns: indices into the names `classes`."""
        return np.arange(len(self.classes))

    def predict(self, images: Images, *, pixels: str = "uint8", **options: Unpack[Asked]) -> np.ndarray:
        """Class indices (n,)."""
        return self.route(images, pixels=pixels, **options).label

    def predict_proba(self, images: Images, *, pixels: str = "uint8", **options: Unpack[Asked]) -> np.ndarray:
        """Probabilities (n, classes)."""
        return self.route(images, pixels=pixels, **options).probabilities

    def route(self, images: Images, *, pixels: str = "uint8", **options: Unpack[Asked]) -> Routed:
        """Route images: uint8 arrays (n, h, w) or (n, h, w, c), or a list of PIL images, file paths or encoded bytes.

        With `pixels="unit"` arrays hold floats from 0 to 1; no other type is cast. `budget_met` is false where the
        request cannot be met. Raises UsageError, a ValueError, naming a bad value.
        """
        wanted = asked(options, "pixels")
        return self.run(self.prepare(images, pixels), wanted)

    def route_prepared(self, x: np.ndarray, **options: Unpack[Asked]) -> Routed:
        """`route` for prepared images (n, c, h, w), float32."""
        wanted = asked(options)
        return self.run(checked(x, self.transform), wanted)

    def stream(self, **options: Unpack[Asked]) -> Stream:
        """A stream that holds its budget on average over its images, also when they are unlike the validation data.

        Takes `budget`, by default the bundle's own, and `max_cost`. It needs no labels: see `quee.runtime.control`.
        """
        return Stream(self, asked(options))

    def explain(self, images: Images, *, pixels: str = "uint8", **options: Unpack[Asked]) -> list[Explanation]:
        """An explanation of each image's path."""
        x = self.prepare(images, pixels)
        trace = Trace(len(x), self.tree.segments)
        routed = self.run(x, asked(options, "pixels"), trace)
        return explained(routed, trace, self.counting, self.policy_name, self.classes, self.static_costs)

    @cached_property
    def static_costs(self) -> dict[str, float]:
        """Cost of the static network by precision."""
        return static_costs(self.tree, self.policy, self.float_cost)

    def prepare(self, images: Images, pixels: str = "uint8") -> np.ndarray:
        """Images, as `route` takes them, to the backbone's input: float32 (n, c, h, w)."""
        return prepare(images, self.transform, pixels)

    def warm(self, batch: int = LARGEST, megabytes: float | None = None, growing: bool = False) -> "AdaptiveClassifier":
        """Run every segment now, and compile graphs for batches of up to `batch` images if the engine compiles graphs.

        Otherwise this happens in the first calls that need it. With `megabytes`, a limit from now on, compiled graphs take so
        much memory together: those are compiled that save most padding in the steps that images take most, and smaller
        batches run padded in them. `growing` raises the limit to what `SIZES` sizes of these steps take, where that is
        more. Answers stay the same. Raises UsageError for a limit that is not above 0.
        """
        if megabytes is not None and not megabytes > 0:
            raise UsageError(f"megabytes={megabytes}: give more than 0")
        tree, size = self.tree, self.transform.size
        state = np.zeros((1, self.transform.channels, *size), np.float32)
        for segment in range(1, tree.segments + 1):
            after = None
            for precision in sorted({path[-1] for path in tree.paths if len(path) == segment}):
                after = self.engine.run(segment, precision, state).state
            if after is not None:
                state = after
        if isinstance(self.engine, GraphEngine | AutoEngine):
            self._compile(self.engine, batch, inf if megabytes is None else megabytes * 1e6, growing)
        return self

    def _compile(self, engine: GraphEngine | AutoEngine, batch: int, limit: float, growing: bool) -> None:
        """Compile graphs for batches of up to `batch` images, within a limit in bytes those first that save most."""
        held = engine.held
        if limit < inf:
            held.limit = inf if growing else limit
            held.drop()
        taken = self._steps_taken()
        steps = [
            (step, found)
            for step, count in taken.most_common()
            if (found := engine.compiling(*step)) is not None and (limit == inf or count or not taken.total())
        ]
        sizes = [[(own, *step, size) for size in own.useful(*step, batch)] for step, own in steps]
        turns = [*zip_longest(*sizes)]
        for part in (turns[:SIZES], turns[SIZES:]):
            for own, segment, precision, size in (entry for turn in part for entry in turn if entry):
                if held.has_room():
                    own.compile_for(segment, precision, size)
            if growing:
                held.limit = max(limit, held.taken())

    def _steps_taken(self) -> Counter[tuple[int, Precision]]:
        """By (segment, precision), how many of the canary's paths take it, at operating points from cheap to dear."""
        paths = [] if self.canary is None else self.canary.routes.node.ravel().tolist()
        found: Counter[tuple[int, Precision]] = Counter(dict.fromkeys(steps_of(self.tree), 0))
        for end in paths:
            found.update((len(path), path[-1]) for path in map(self.tree.paths.__getitem__, self.tree.lineage(end)))
        return found

    def on(self, engine: Engine) -> "AdaptiveClassifier":
        """The same classifier on another engine, without profile and canary."""
        facts = (self.costs, self.points, self.classes, self.budget, self.description)
        found = AdaptiveClassifier(self.view, self.policy, *facts, engine, self.executor.ensembles)
        found.float_cost = self.float_cost
        return found

    def hold(self) -> "AdaptiveClassifier":
        """Compare the engine with the canary, if there is one; raises DisagreementError."""
        if self.canary is not None:
            self.canary.check(self.executor, self.policy)
        return self

    @property
    def guarantees(self) -> list[Guarantee]:
        """Certified guarantees; empty if the experiment has no certification split."""
        return [Guarantee(**facts) for facts in self.description.get("guarantees", [])]

    def expect(self, **options: Unpack[Asked]) -> Expected:
        """Expected accuracy and mean cost on data like the validation data, with 95 % intervals.

        With `max_cost` the values are upper bounds, because the points were measured without such a limit.
        """
        return self.operating(asked(options)).expected

    def operating(self, options: Options) -> Operating:
        """The operating points that answer the options; raises UsageError for a budget of time, whose points are those of
        `timed(batch)`."""
        if options.milliseconds is not None and not self.by_time:
            raise UsageError("a budget of time is that of one call's batch; batches that callers share have none")
        return self._operating.choose(options)

    def start(self, x: np.ndarray, options: Options) -> Start:
        """First steps and knobs of prepared images under the options."""
        at, n = self.operating(options), len(x)
        # The sample itself, never its batch, decides which of the two points serves it.
        if 0 < at.share < 1:
            second = draws(x) < at.share
            first = np.where(second, at.high.first, at.low.first)
            trade_off = np.where(second, at.high.trade_off, at.low.trade_off)
        else:
            point = at.high if at.share > 0 else at.low
            first, trade_off = np.full(n, point.first), np.full(n, float(point.trade_off))
        return Start(first, trade_off, None if options.max_cost is None else float(options.max_cost), at.met)

    def routed(self, node: np.ndarray, log_probs: np.ndarray, error: np.ndarray, knob: np.ndarray, met: bool) -> Routed:
        """The results of samples that exited at nodes (n,), with log probabilities (n, classes), at knobs (n,)."""
        path, cost = self.paths[node].tolist(), self.counting.spent(node, knob)
        return Routed(
            log_probs.argmax(axis=1), np.exp(log_probs), node, path, cost, met, error, knob, self.deciding(knob)
        )

    def deciding(self, knob: np.ndarray) -> list[str]:
        """Name of the policy that decides at each knob (n,)."""
        return [name or self.policy_name for name in self.policy.names(knob)]

    def run(self, x: np.ndarray, options: Options, trace: Trace | None = None) -> Routed:
        """`route` for checked images (n, c, h, w), float32."""
        if options.milliseconds is not None and not self.by_time:
            return self.timed(len(x)).run(x, options, trace)
        start, n = self.start(x, options), len(x)
        if n == 1 and trace is None and start.max_cost is None:
            node, log_probs, error = self.executor.single(x, int(start.first[0]), float(start.trade_off[0]))
            return self.routed(np.array([node]), log_probs, error, start.trade_off, start.met)
        samples, found = self.executor.samples(n), np.empty((n, len(self.classes)))
        samples.admit(slice(None), start.trade_off, start.max_cost)

        def ended(gate: int, slots: np.ndarray, log_probs: np.ndarray) -> None:
            found[slots] = log_probs

        self.executor.run(samples, Flight(np.arange(n), x), start.first, ended, trace)
        return self.routed(samples.node, found, samples.error, samples.trade_off, start.met)

    def timed(self, batch: int) -> "AdaptiveClassifier":
        """The same networks under a policy that spends time: it takes `latency_ms` and `images_per_second` in batches of a size.

        Its points' costs are milliseconds per image; what an image cost is still in units of the static w8a8 backbone.

        Raises UsageError where the bundle was not profiled with this engine on this machine, or has no samples for
        finding operating points.
        """
        if self.profile is None:
            raise UsageError("a budget of time takes a profile of the bundle: run `quee profile BUNDLE` first")
        if foreign := self.profile.foreign(self.engine):
            raise UsageError(
                f"the bundle's profile was measured elsewhere: {foreign}; run `quee profile BUNDLE` here, or load the "
                "bundle as it was profiled"
            )
        with _TIMING:
            profile, timed = self._timed.get(batch, (None, None))
            if timed is None or profile is not self.profile:
                found = timed_points(self.validation, self.policy, self.profile, batch)
                if found is None:
                    raise UsageError("this bundle keeps no validation samples, so that a budget of time cannot be met")
                policy, points = found
                timed = AdaptiveClassifier(
                    self.view,
                    policy,
                    policy.costs.routed,
                    points,
                    self.classes,
                    points[0].cost,
                    {**self.description, "guarantees": []},  # none was certified under costs of time
                    self.engine,
                    self.executor.ensembles,
                )
                timed.by_time, timed.counting = True, self.policy
                self._timed[batch] = self.profile, timed
            self._timed.move_to_end(batch)
            if len(self._timed) > TIMED:
                self._timed.popitem(last=False)
        return timed

    def __repr__(self) -> str:
        precisions = ", ".join(map(str, self.tree.precisions))
        return (
            f"AdaptiveClassifier({len(self.classes)} classes, {precisions}, budget={self.budget}, {self.engine.name})"
        )


__all__ = ["AdaptiveClassifier", "Images", "Options", "Point", "Routed", "Start"]
