"""What an experiment achieved, in a sentence and a few numbers: the report, `quee run` and whatever else says it use these.

The sentence and the numbers are those of the point that is deployed: the policy at the bundle's budget, chosen on validation.
The least cost near the float network belongs to another point, which is picked on test; it stands apart and says so.

A method's accuracy is a mean over seeds and, with folds, over the test images of all folds.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quee.evaluation.near import DROPS
from quee.measure import ACCURACY, measure_of
from quee.policies.names import OURS, REFERENCE, named, single_techniques
from quee.policies.registry import METHODS
from quee.work.counts import counted
from quee.work.percentages import difference, figure, percent

EIGHT_BIT = "the 8-bit network's computation"
CHOSEN = "policy"
"""Key of a point of `auto` with the name of the policy that serves it."""
BUNDLED = ("bundled_accuracy", "bundled_cost")
"""Keys of a point with accuracy and cost on test under the first seed, whose policies a bundle holds."""
SIMPLER = {"fixed precisions": REFERENCE, "confidence exits": named("rival")[0]}
"""Rivals that are simpler to run than ours, in words; their points are chosen on validation, as ours are."""
CLEARLY = 0.1
STATIC = f"{METHODS['static'].shown}_"
"""Beginning of the names of single static paths."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """One method's results on test, in words."""

    metrics: Mapping[str, Any]
    """`evaluate/metrics.json`"""
    points: Sequence[Row]
    """`evaluate/budgets.parquet`: every method at every budget."""
    method: str
    budget: float
    """The budget of what is deployed; points are shown at the nearest one that was evaluated."""
    labelled: Sequence[Row] = field(default=())
    """`evaluate/labelled.parquet`, where the test images have no labels."""

    @property
    def point(self) -> Row | None:
        """The method at the budget."""
        return min(self.own(), key=lambda row: (abs(row["budget"] - self.budget), row["budget"]), default=None)

    @property
    def deployed(self) -> str:
        """The method, and of `auto` the policy that it chose at the budget: `quee_auto (auto chose plan)`."""
        chosen = (self.point or {}).get(CHOSEN)
        return f"{self.method} (auto chose {chosen})" if chosen else self.method

    def sentence(self, named: bool = False) -> str:
        """How often the deployed point is right on test, beside the float network, and what it costs; begins with the
        method where it is to be `named`."""
        point, full, measure = self.point, self.metrics.get("fp32_accuracy"), measure_of(self.metrics)
        if point is None:
            return "No operating point of it was measured."
        accuracy, beside = point["test_accuracy"], ""
        if full is not None and measure is ACCURACY:
            lost = round(100 * (full - accuracy), 1)
            beside = f", {abs(lost)} points {'below' if lost > 0 else 'above'} the float network ({percent(full)})"
            beside = beside if lost else f", as the float network is ({percent(full)})"
        said = measure.said(f"is right on {percent(accuracy)} of the test images{beside}, {spent(point['test_cost'])}.")
        if named:
            return f"{self.deployed} {said}"
        said = said.removeprefix("is ")
        return f"{said[0].upper()}{said[1:]}"

    def nearest(self) -> str:
        """The least cost near the float network, which is another point than the deployed one, and how it was picked; empty
        where the float network is not known."""
        full, found = self.metrics.get("fp32_accuracy"), self.reached()
        if full is None or self.point is None:
            return ""
        if found is None:
            return f"It has no point {near(max(DROPS), self.metrics)}."
        drop, cost = found
        return (
            f"The least cost {near(drop, self.metrics)} is {share(cost)}; that point was picked on the test images, the deployed "
            "one on validation."
        )

    def reached(self) -> tuple[float, float] | None:
        """The least drop of `DROPS` that the method gets to under every seed, and the cost; None where there is none."""
        own = self.metrics.get("methods", {}).get(self.method, {})
        for drop in DROPS:
            if (cost := own.get(f"cost_at_drop_{drop}")) is not None:
                return drop, cost
        return None

    def instead(self) -> str:
        """That something simpler comes as near to the float network at clearly less cost, in a sentence; else empty."""
        found = simpler(self.metrics, self.method)
        if found is None:
            return ""
        drop, own, others = found
        costs = [f"{words} ({name}) {share(cost)}" for words, name, cost in others] + [f"{self.method} {share(own)}"]
        return (
            f"Something simpler is the better choice {near(drop, self.metrics)}, because it costs less: {', '.join(costs)}, "
            "all by the same test images."
        )

    def numbers(self) -> str:
        """Accuracy and cost at the budget, and the gain over fixed precisions, averaged over budgets."""
        point = self.point
        if point is None:
            return ""
        said = measure_of(self.metrics).said
        missed = "" if point.get("budget_met", True) else ", which it cannot meet"
        parts = [
            said(f"at budget {point['budget']:g}{missed}: accuracy {percent(point['test_accuracy'])}{self.interval()}"),
            f"cost {point['test_cost']:.2g}",
        ]
        if gain := self.gain():
            parts.append(f"{difference(gain)} points over fixed precisions averaged over budgets")
        return ", ".join(parts)

    def bundled(self) -> str:
        """What the bundle's own policies do, in a sentence, where several seeds were averaged and it differs; else empty."""
        point = self.point or {}
        accuracy, cost = (point.get(key) for key in BUNDLED)
        if (point.get("seeds") or 1) < 2 or accuracy is None or cost is None:
            return ""
        own, mean = (
            (percent(a), share(c)) for a, c in ((accuracy, cost), (point["test_accuracy"], point["test_cost"]))
        )
        if own == mean:
            return ""
        seeds = counted(point["seeds"], "seed")
        said = f"That is the mean of {seeds}; the first, whose policies the bundle holds, is right on {own[0]} for {own[1]}."
        return measure_of(self.metrics).said(said)

    def interval(self) -> str:
        """The 95 % interval of the accuracy at the budget, with a space before it; empty where it is unknown."""
        point = self.point
        if point is None or point.get("low") is None or point.get("high") is None:
            return ""
        return f" [{figure(point['low'], 1)}, {figure(point['high'], 1)}]"

    def gain(self, rival: str = REFERENCE) -> Mapping[str, float] | None:
        """How far the method is above a rival, averaged over budgets, with its 95 % interval: the one comparison of methods
        that counts, wherever a gain is told. Comparisons at single budgets are details of it."""
        return gains_of(self.metrics).get(f"gain.{self.method}.{rival}")

    def tested(self) -> str:
        """On what the numbers were measured."""
        metrics = self.metrics
        parts = [counted(metrics["test_samples"], "test image")] if "test_samples" in metrics else ["the test images"]
        if groups := metrics.get("test_groups"):
            parts.append(f"in {counted(groups, 'group')}")
        if folds := metrics.get("folds"):
            parts.append(f"in {folds} folds, each tested by what was fitted without it")
        if (seeds := metrics.get("seeds", 1)) > 1:
            parts.append(f"mean of {seeds} seeds")
        return ", ".join(parts)

    def said_of_labelled(self) -> str:
        """Accuracy on labelled images at the budget, where the test images have no labels; empty where they have."""
        if measure_of(self.metrics) is ACCURACY:
            return ""
        point = self.point
        own = [row for row in self.labelled if row["method"] == self.method]
        row = next((row for row in own if point is not None and row["budget"] == point["budget"]), None)
        if row is None:
            return "There are no labels to tell accuracy by."
        ends = f"{figure(row['low'], 1)}, {figure(row['high'], 1)}"
        count = counted(self.metrics["labelled_samples"], "labelled image")
        return f"At budget {row['budget']:g} it is right on {percent(row['accuracy'])} [{ends}] of {count}."

    def own(self) -> list[Row]:
        """The method at every budget."""
        return [row for row in self.points if row["method"] == self.method and row["test_accuracy"] is not None]


def with_chosen(rows: Iterable[Row], points: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows of `evaluate/budgets.parquet`, which are means over seeds, with what the first seed has there, whose policies a
    bundle holds: the policy that `auto` chose as `CHOSEN`, accuracy and cost as `BUNDLED`. `points` are rows of
    `operating_points.parquet`."""
    by_seed = sorted(points, key=lambda row: -(row.get("seed") or 0))
    first = {(row["method"], row["budget"]): row for row in by_seed}
    found = []
    for row in rows:
        own = first.get((row["method"], row["budget"]), {})
        bundled = {name: own.get(key) for name, key in zip(BUNDLED, ("test_accuracy", "test_cost"), strict=True)}
        found.append({**row, CHOSEN: own.get("policy") or "", **bundled})
    return found


def simpler(metrics: Mapping[str, Any], method: str) -> tuple[float, float | None, list[tuple[str, str, float]]] | None:
    """What is simpler than one of our methods and clearly cheaper, at the least drop of `DROPS` that any of them gets to.

    Simpler are `SIMPLER` and single static paths: what nobody has to pick among many on test. The drop, the method's own
    cost there (None where it does not get there), and the cheapest of each kind: what it is, its name and cost. None where
    nothing simpler saves at least `CLEARLY` of the cost.
    """
    known = metrics.get("methods", {})
    static = [name for name in single_techniques(known) if name.startswith(STATIC)]
    kinds = {words: [name for name in (hull, *(static if hull == REFERENCE else ())) if name in known]
             for words, hull in SIMPLER.items()}  # fmt: skip
    if method not in OURS or method not in known:
        return None
    for drop in DROPS:
        key = f"cost_at_drop_{drop}"
        own, found = known[method].get(key), []
        for words, names in kinds.items():
            costs = [(known[name][key], name) for name in names if known[name].get(key) is not None]
            if costs and (own is None or min(costs)[0] <= (1 - CLEARLY) * own):
                cost, name = min(costs)
                found.append((words, name, cost))
        if found:
            return drop, own, found
        if own is not None:
            return None
    return None


def near(drop: float, metrics: Mapping[str, Any]) -> str:
    """How near to the float network, to follow "the least cost"; without labels, the agreement that the drop leaves."""
    if measure_of(metrics) is ACCURACY:
        return f"within {points(drop)} of the float network"
    return f"for agreement with the float network on {percent(metrics['fp32_accuracy'] - drop / 100, 1)} of the images"


def points(drop: float) -> str:
    """Points of accuracy in words: `half a point`, `one point`."""
    return {0.5: "half a point", 1.0: "one point"}.get(drop, counted(drop, "point"))


def deployed_curve(policy: str, evaluated: Collection[str]) -> str | None:
    """The curve of a policy, by its name in the registry, or of our first policy that was evaluated; None without any."""
    own = METHODS[policy].shown if policy in METHODS else policy
    return next((name for name in (own, *OURS) if name in evaluated), None)


def gains_of(metrics: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Gains `gain.OURS.RIVAL` over re-divisions where there are some, otherwise over test samples and seeds."""
    return metrics.get("resplits") or metrics.get("gains") or {}


def mean_gain(metrics: Mapping[str, Any], method: str, rival: str = REFERENCE) -> float | None:
    """How far a method's `auc` is above a rival's, as in `gains_of`, for methods that are not ours, too; None if unknown."""
    again, once = metrics.get("resplits"), metrics.get("methods", {})
    own, other = (
        (again.get(f"auc.{name}", {}).get("mean") if again else once.get(name, {}).get("auc"))
        for name in (method, rival)
    )
    return None if own is None or other is None else own - other


def spent(cost: float) -> str:
    """A cost as a share of the 8-bit network's."""
    if cost >= 0.995:
        return f"for {cost:.2g} times {EIGHT_BIT}" if cost >= 1.05 else f"for {EIGHT_BIT}"
    return f"for {share(cost)} of {EIGHT_BIT}"


def share(cost: float | None) -> str:
    """A cost in percent of the 8-bit network's, with two digits that mean something, or as a multiple of it."""
    if cost is None:
        return "never"
    return f"{100 * cost:.{0 if cost >= 0.0995 else 1}f} %" if cost < 0.995 else f"{cost:.2g} ×"
