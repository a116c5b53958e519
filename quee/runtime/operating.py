"""Options of a caller, and the operating points that serve them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from numbers import Real
from typing import Annotated, Literal, TypedDict

import numpy as np
from pydantic import Field

from quee.errors import UsageError
from quee.paths import PathTree

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Point:
    """An operating point of the policy, found on validation. The annotated ranges are checked in `bundle.json`."""

    trade_off: AtLeast0
    """The policy's knob: λ, or the number of a point."""
    first: Annotated[int, Field(ge=0)]
    """Index of the first segment's precision."""
    cost: Positive
    accuracy: Share
    accuracy_interval: tuple[Share, Share] | None = None
    """95 % interval of the accuracy on new data (bootstrap over validation samples); None in older bundles."""
    cost_interval: tuple[Positive, Positive] | None = None
    labelled: tuple[Share, Share, Share] | None = None
    """Accuracy on labelled images and its 95 % interval, where `accuracy` is agreement with the float network."""
    policy: str = ""
    """Name of the policy that decides; in bundles always given."""


@dataclass(frozen=True)
class Guarantee:
    """A certified statement about a trade-off, from samples with no other use; each statement holds alone.

    `accuracy_loss`: accuracy is at most `limit` below the static network's at the highest precision. `budget`: the mean
    cost is at most `limit`. `learn_then_test` holds with probability 1 − `delta`, `conformal` on average.
    """

    what: Literal["accuracy_loss", "budget"]
    limit: Positive
    method: Literal["learn_then_test", "conformal"]
    delta: Annotated[float, Field(gt=0, lt=1)]
    samples: Annotated[int, Field(ge=1)]
    trade_off: AtLeast0
    cost: Positive
    """Mean cost on validation."""


@dataclass(frozen=True)
class Expected:
    """Expected accuracy and mean cost on new data like the validation data, with 95 % intervals if known."""

    accuracy: float
    cost: float
    accuracy_interval: tuple[float, float] | None
    cost_interval: tuple[float, float] | None
    budget_met: bool
    labelled: tuple[float, float, float] | None = None
    """Accuracy and its interval on labelled images, where `accuracy` is agreement with the float network."""


class Asked(TypedDict, total=False):
    """`Options` as keyword arguments."""

    budget: float | None
    trade_off: float | None
    max_cost: float | None
    latency_ms: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class Options:
    """A caller's request; costs are in units of the static w8a8 backbone.

    `budget` is a mean cost over data like the validation data, and `trade_off` is the price λ of a unit of cost. Either
    can be combined with `max_cost`, a limit for every sample; `max_cost` alone spends up to the limit on every sample.
    Without options the bundle's budget holds. `latency_ms` (mean milliseconds per image) and `images_per_second` are
    budgets of time for batches of the size of the call; they need a profile from this machine. A request that cannot be
    met is served at the nearest point. Raises UsageError naming a value out of range.
    """

    budget: float | None = None
    trade_off: float | None = None
    max_cost: float | None = None
    latency_ms: float | None = None
    images_per_second: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = "of 0 or more" if field.name == "trade_off" else "above 0"
            if value is None:
                continue
            if not isinstance(value, Real) or isinstance(value, bool) or not np.isfinite(float(value)):
                raise UsageError(f"{field.name}={value!r}: give a finite number {least}")
            if value < 0 or (value == 0 and field.name != "trade_off"):
                raise UsageError(f"{field.name}={value!r}: give a finite number {least}")
        if self.budget is not None and self.trade_off is not None:
            raise UsageError("give one of budget and trade_off, not both")
        if self.milliseconds is not None and sum(getattr(self, field.name) is not None for field in fields(self)) > 1:
            raise UsageError("give one of latency_ms and images_per_second, and nothing beside it")

    @property
    def milliseconds(self) -> float | None:
        """The budget of time per image; None without one."""
        if self.images_per_second is not None:
            return 1000.0 / float(self.images_per_second)
        return None if self.latency_ms is None else float(self.latency_ms)


@dataclass(frozen=True)
class Operating:
    """Two neighbouring points, the share of samples served at the second, and whether the request can be met."""

    low: Point
    high: Point
    share: float
    met: bool

    @property
    def policy(self) -> str:
        """Name of the policy, or of the two that are mixed."""
        return " + ".join(dict.fromkeys(point.policy for point in (self.low, self.high) if point.policy))

    @property
    def expected(self) -> Expected:
        """Expectation for the mixture; its intervals mix the points' intervals, which is never too narrow."""

        def mixed(low: float, high: float) -> float:
            return (1 - self.share) * low + self.share * high

        def interval(low: tuple[float, float] | None, high: tuple[float, float] | None) -> tuple[float, float] | None:
            return None if low is None or high is None else (mixed(low[0], high[0]), mixed(low[1], high[1]))

        known = self.low.labelled is not None and self.high.labelled is not None
        labelled = [mixed(a, b) for a, b in zip(self.low.labelled or (), self.high.labelled or (), strict=known)]
        return Expected(
            mixed(self.low.accuracy, self.high.accuracy),
            mixed(self.low.cost, self.high.cost),
            interval(self.low.accuracy_interval, self.high.accuracy_interval),
            interval(self.low.cost_interval, self.high.cost_interval),
            self.met,
            (labelled[0], labelled[1], labelled[2]) if known else None,
        )


class OperatingPoints:
    """The points of a bundle, rising in cost."""

    def __init__(
        self, tree: PathTree, costs: np.ndarray, points: Sequence[Point], budget: float, priced: bool = True
    ) -> None:
        """`costs` (N,) are routed costs by node; `budget` holds where no options are given.

        `priced` means that the policy's knob is λ. Any other policy serves a trade-off at one of its points.
        """
        self.tree, self.costs, self.points, self.budget, self.priced = tree, costs, list(points), budget, priced
        self.choose = lru_cache(maxsize=1024)(self._choose)
        """The points that serve the options; the nearest point where they cannot be met."""

    def _choose(self, options: Options) -> Operating:
        limit = options.max_cost
        met = limit is None or bool(limit >= self.costs[self.tree.nodes_at(1)].min())
        if options.trade_off is not None:
            point = self._within(self._priced(float(options.trade_off)), limit)
            return Operating(point, point, 0.0, met)
        if limit is not None and options.budget is None:
            point = self._within(self.points[-1], limit)
            return Operating(point, point, 0.0, met)
        asked = self.budget if options.budget is None else float(options.budget)
        costs = [point.cost for point in self.points]
        right = int(np.searchsorted(costs, asked))
        if right == 0:
            point = self._within(self.points[0], limit)
            return Operating(point, point, 0.0, met and bool(costs[0] <= asked * (1 + 1e-9)))
        if right == len(costs):
            point = self._within(self.points[-1], limit)
            return Operating(point, point, 0.0, met)
        low, high = self.points[right - 1], self.points[right]
        share = (asked - low.cost) / (high.cost - low.cost)
        return Operating(self._within(low, limit), self._within(high, limit), share, met)

    def _priced(self, trade_off: float) -> Point:
        """The best point for a price of a unit of cost."""
        if not self.priced:
            return min(self.points, key=lambda p: 1 - p.accuracy + trade_off * p.cost)
        nearest = min(self.points, key=lambda p: abs(np.log1p(p.trade_off) - np.log1p(trade_off)))
        return replace(nearest, trade_off=trade_off)

    def _within(self, point: Point, max_cost: float | None) -> Point:
        """The point with a first step within the limit: the dearest such step, or the cheapest step if there is none."""
        if max_cost is None:
            return point
        children = self.tree.children[-1]
        considered = [b for b, node in enumerate(children) if node >= 0]
        allowed = [b for b in considered if self.costs[children[b]] <= max_cost]
        if point.first in allowed:
            return point

        def cost(choice: int) -> float:
            return float(self.costs[children[choice]])

        return replace(point, first=max(allowed, key=cost) if allowed else min(considered, key=cost))
