"""Options of a caller, and the operating points that serve them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from numbers import Real
from typing import Annotated, Literal, TypedDict

import numpy as np
from pydantic import Field

from quee.budgets import LARGEST, TOO_LARGE
from quee.errors import UsageError
from quee.paths import PathTree
from quee.policies.ceiling import ROUNDING, served
from quee.precision import FLOAT
from quee.work.decimals import comma_hint
from quee.work.registry import unknown

ONE_OF = ("budget", "accuracy_loss", "trade_off")
"""Options that each say alone which operating point serves."""
FROM_ZERO = ("accuracy_loss", "trade_off")
OF_TIME = ("latency_ms", "images_per_second")
OF_COST = ("budget", "max_cost")
"""Options in units of cost, and so at most `LARGEST`."""
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
    taken: Annotated[int, Field(ge=0)] | None = None
    """Number of the point that serves where this one is the dearest within a budget; None where it is this one."""
    accuracy_loss: float | None = None
    """Points of accuracy below the float network on validation; None where that is not known."""
    accuracy_loss_limit: float | None = None
    """What the accuracy loss is at most on new data, with 95 % confidence for all points at once."""


@dataclass(frozen=True)
class Guarantee:
    """A certified statement about a trade-off, from samples with no other use; each statement holds alone.

    `accuracy_loss`: accuracy is at most `limit` points below that of the static network of `reference`, the float network
    but in bundles of before format 6. `budget`: the mean cost is at most `limit`. `learn_then_test` holds with probability
    1 − `delta`, `conformal` on average.
    """

    what: Literal["accuracy_loss", "budget"]
    """What is limited."""
    limit: Positive
    """Points of accuracy, or cost."""
    method: Literal["learn_then_test", "conformal"]
    """What is guaranteed: with probability 1 − `delta`, or on average."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """Probability with which it may fail."""
    samples: Annotated[int, Field(ge=1)]
    """Number of samples that certify it; groups count once."""
    trade_off: AtLeast0
    """λ at which it holds."""
    cost: Positive
    """Mean cost on validation."""
    reference: str = FLOAT
    """Precision of the network that the accuracy is compared with."""
    policy: str = ""
    """Name of the policy whose point is certified; empty in bundles of before, whose points were all of one policy by price."""
    knob: AtLeast0 | None = None
    """The point's knob; None in bundles of before, where it is the trade-off."""

    def holds(self, point: Point) -> bool:
        """Whether an operating point is the one that is certified."""
        if self.knob is None:
            return point.trade_off == self.trade_off
        return (point.policy, point.trade_off) == (self.policy, self.knob)

    @property
    def certifies(self) -> bool:
        """Whether it limits the accuracy lost to the float network with a probability."""
        return self.what == "accuracy_loss" and self.method == "learn_then_test" and self.reference == FLOAT

    @property
    def words(self) -> str:
        """What is certified, to follow "certified: "."""
        if self.what == "budget":
            return f"mean cost at most {self.limit:g}"
        return f"at most {self.limit:g} points of accuracy below {self.reference}"


@dataclass(frozen=True)
class Expected:
    """Expected accuracy and mean cost on new data like the validation data, with 95 % intervals if known."""

    accuracy: float
    """From 0 to 1; agreement with the float network where images had no labels."""
    cost: float
    """Mean cost, in units of the static w8a8 backbone."""
    accuracy_interval: tuple[float, float] | None
    """Its 95 % interval; None where unknown."""
    cost_interval: tuple[float, float] | None
    """The same for the cost."""
    budget_met: bool
    """Whether the request can be met; where not, the nearest point is told of."""
    labelled: tuple[float, float, float] | None = None
    """Accuracy and its interval on labelled images, where `accuracy` is agreement with the float network."""
    accuracy_loss: float | None = None
    """Points of accuracy below the float network on validation."""
    accuracy_loss_limit: float | None = None
    """What the accuracy loss is at most, with 95 % confidence."""


class Asked(TypedDict, total=False):
    """`Options` as keyword arguments."""

    budget: float | None
    accuracy_loss: float | None
    certified: bool
    trade_off: float | None
    max_cost: float | None
    latency_ms: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class Options:
    """A caller's request; costs are in units of the static w8a8 backbone.

    `budget` is a ceiling of the mean cost over data like the validation data, `accuracy_loss` the points of accuracy that
    may be lost to the float network (0.5 is half a point), and `trade_off` the price λ of a unit of cost. Budget and
    price can be combined with `max_cost`, a limit for every sample; `max_cost` alone spends up to the limit on every sample.
    An accuracy loss is answered by the cheapest point that on validation loses at most so much with 95 % confidence; with
    `certified`, by the cheapest that is certified on samples with no other use.
    Without options the bundle's budget holds. `latency_ms` (mean milliseconds per image) and `images_per_second` are
    budgets of time for batches of the size of the call; they need a profile from this machine. A request that cannot be
    met is served at the nearest point. Raises UsageError naming a value out of range; costs are at most `quee.budgets.LARGEST`.
    """

    budget: float | None = None
    """Ceiling of the mean cost."""
    trade_off: float | None = None
    """λ, the price of a unit of cost."""
    max_cost: float | None = None
    """Largest cost of any sample."""
    latency_ms: float | None = None
    """Mean milliseconds per image."""
    images_per_second: float | None = None
    """The same as a rate."""
    accuracy_loss: float | None = None
    """Points of accuracy below the float network."""
    certified: bool = False
    """Whether the accuracy loss must be certified."""

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None and name != "certified"}
        for name, value in given.items():
            least = "of 0 or more" if name in FROM_ZERO else "above 0"
            if not isinstance(value, Real) or isinstance(value, bool) or not np.isfinite(float(value)):
                raise UsageError(f"{name}={value!r}: give a finite number {least}{comma_hint(value)}")
            if value < 0 or (value == 0 and name not in FROM_ZERO):
                raise UsageError(f"{name}={value!r}: give a finite number {least}")
            if name in OF_COST and float(value) > LARGEST:
                raise UsageError(f"{name}={value!r}: {TOO_LARGE}")
        if len(both := [name for name in ONE_OF if name in given]) > 1:
            raise UsageError(f"give one of {', '.join(ONE_OF[:-1])} and {ONE_OF[-1]}, not both {' and '.join(both)}")
        if self.milliseconds is not None and not np.isfinite(self.milliseconds):
            raise UsageError(
                f"images_per_second={self.images_per_second!r}: give a rate of which an image has a finite time"
            )
        if self.milliseconds is not None and len(given) > 1:
            raise UsageError("give one of latency_ms and images_per_second, and nothing beside it")
        if not isinstance(self.certified, bool):
            raise UsageError(f"certified={self.certified!r}: give true or false")
        if self.accuracy_loss is not None and self.max_cost is not None:
            raise UsageError("accuracy_loss does not go with max_cost, under which no point was measured")
        if self.certified and self.accuracy_loss is None:
            raise UsageError("certified goes with accuracy_loss")
        if self.accuracy_loss is not None and self.accuracy_loss > 100:
            raise UsageError(f"accuracy_loss={self.accuracy_loss!r}: give points of accuracy, at most 100")

    @property
    def default(self) -> bool:
        """Whether the bundle's own budget holds."""
        return all(value is None for name, value in vars(self).items() if name != "certified")

    @property
    def milliseconds(self) -> float | None:
        """The budget of time per image; None without one."""
        if self.images_per_second is not None:
            return 1000.0 / float(self.images_per_second)
        return None if self.latency_ms is None else float(self.latency_ms)


_remembered = lru_cache(maxsize=256, typed=True)(Options)


def asked(options: Asked, *beside: str) -> Options:
    """`Options` of keyword arguments; those of earlier calls are remembered.

    Raises as `Options` does, and UsageError for an unknown keyword, naming the valid ones, among them those that the
    caller takes beside options.
    """
    try:
        return _remembered(**options)
    except TypeError:  # a value without a hash, or no option at all
        if strange := [name for name in options if name not in Asked.__annotations__]:
            valid = [*Asked.__annotations__, *beside]
            nearest = get_close_matches(strange[0], valid, n=len(valid), cutoff=0.0)
            raise UsageError(unknown("option", strange[0], nearest)) from None
        return Options(**options)


@dataclass(frozen=True)
class Operating:
    """Two neighbouring points, the share of samples served at the second, and whether the request can be met."""

    low: Point
    high: Point
    share: float
    met: bool

    @property
    def decided_by(self) -> str:
        """Name of the policy that decides, or of the two that are mixed."""
        return " + ".join(dict.fromkeys(point.policy for point in (self.low, self.high) if point.policy))

    @property
    def expected(self) -> Expected:
        """Expectation for the mixture; its intervals mix the points' intervals, which is never too narrow."""

        def mixed(low: float, high: float) -> float:
            return (1 - self.share) * low + self.share * high

        def interval(low: tuple[float, float] | None, high: tuple[float, float] | None) -> tuple[float, float] | None:
            return None if low is None or high is None else (mixed(low[0], high[0]), mixed(low[1], high[1]))

        labelled = None
        if self.low.labelled is not None and self.high.labelled is not None:
            mean, low, high = (mixed(a, b) for a, b in zip(self.low.labelled, self.high.labelled, strict=True))
            labelled = (mean, low, high)

        def known(low: float | None, high: float | None) -> float | None:
            return None if low is None or high is None else mixed(low, high)

        return Expected(
            mixed(self.low.accuracy, self.high.accuracy),
            mixed(self.low.cost, self.high.cost),
            interval(self.low.accuracy_interval, self.high.accuracy_interval),
            interval(self.low.cost_interval, self.high.cost_interval),
            self.met,
            labelled,
            known(self.low.accuracy_loss, self.high.accuracy_loss),
            known(self.low.accuracy_loss_limit, self.high.accuracy_loss_limit),
        )


class OperatingPoints:
    """The points of a bundle, rising in cost."""

    def __init__(
        self,
        tree: PathTree,
        costs: np.ndarray,
        points: Sequence[Point],
        budget: float,
        priced: bool = True,
        guarantees: Sequence[Guarantee] = (),
    ) -> None:
        """`costs` (N,) are routed costs by node; `budget` holds where no options are given.

        `priced` means that the policy's knob is λ. Any other policy serves a trade-off at one of its points.
        """
        self.tree, self.costs, self.points, self.budget, self.priced = tree, costs, list(points), budget, priced
        self.guarantees = guarantees
        self.choose = lru_cache(maxsize=1024)(self._choose)
        """The points that serve the options; the nearest point where they cannot be met."""

    def _choose(self, options: Options) -> Operating:
        limit = options.max_cost
        met = limit is None or bool(limit >= self.costs[self.tree.nodes_at(1)].min())
        if options.trade_off is not None:
            point = self._within(self._priced(float(options.trade_off)), limit)
            return Operating(point, point, 0.0, met)
        if options.accuracy_loss is not None:
            point, shown = self._losing(float(options.accuracy_loss), options.certified)
            return Operating(point, point, 0.0, shown)
        if limit is not None and options.budget is None:
            point = self._within(self.points[-1], limit)
            return Operating(point, point, 0.0, met)
        given = options.budget if options.milliseconds is None else options.milliseconds
        asked = self.budget if given is None else float(given)
        low, high, share, within = served(np.array([point.cost for point in self.points]), self._taken, asked)
        return Operating(
            self._within(self.points[low], limit), self._within(self.points[high], limit), share, met and within
        )

    def _taken(self, last: int) -> int:
        found = self.points[last].taken
        return last if found is None else found

    def _losing(self, most: float, certified: bool) -> tuple[Point, bool]:
        """The cheapest point that loses at most so many points of accuracy, or the nearest, and whether it does.

        Raises UsageError where the bundle does not know what its points lose.
        """
        if certified:
            sure = [g for g in self.guarantees if g.certifies and (self.priced or g.knob is not None)]
            said = [(p, [g.limit for g in sure if g.holds(p)]) for p in self.points]
            known = [(point, min(limits)) for point, limits in said if limits]
            if not known:
                raise UsageError(
                    "certified: no accuracy loss against the float network is certified in this bundle; that takes a share for "
                    "`certification` in prepare.splits, and samples enough"
                )
        else:
            known = [(p, p.accuracy_loss_limit) for p in self.points if p.accuracy_loss_limit is not None]
            if not known:
                raise UsageError(
                    "accuracy_loss: not known of these points. Under a budget of time it never is; otherwise the bundle does not "
                    "know the float network's accuracy (bundles do from format 6 on, with fp32 among paths.references): make "
                    "it anew with `quee run`, or give a budget"
                )
        enough = next((point for point, limit in known if limit <= most + ROUNDING), None)
        return (min(known, key=lambda pair: pair[1])[0], False) if enough is None else (enough, True)

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
