"""What an experiment achieved, in a sentence and a few numbers: the report, `quee run` and whatever else says it use these.

A method's accuracy is a mean over seeds and, with folds, over the test images of all folds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quee.evaluation.drops import DROPS
from quee.measure import ACCURACY, measure_of
from quee.policies.names import OURS, REFERENCE
from quee.policies.registry import METHODS
from quee.work.counts import counted
from quee.work.percentages import difference, figure, percent

EIGHT_BIT = "the 8-bit network's computation"

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

    def sentence(self) -> str:
        """The least computation for nearly the float network's accuracy, or else how near the method comes to it."""
        reached, full = self.reached(), self.metrics.get("fp32_accuracy")
        measure = measure_of(self.metrics)
        if reached is not None and full is not None:
            drop, cost = reached
            if measure is not ACCURACY:
                level = percent(full - drop / 100, 1)
                return f"Agrees with the float network on {level} of the images or more, {spent(cost)}."
            return f"Within {points(drop)} of the float network ({percent(full)}), {spent(cost)}."
        best = max(self.own(), key=lambda row: (row["test_accuracy"], -row["test_cost"]), default=None)
        if best is None:
            return "No operating point of it was measured."
        accuracy = best["test_accuracy"]
        if full is None or measure is not ACCURACY:
            return measure.said(f"It is right on {percent(accuracy)} of the test images, {spent(best['test_cost'])}.")
        lost = f"{100 * (full - accuracy):.1f} points below the float network ({percent(full)})"
        return f"{lost}, {spent(best['test_cost'])}: nearer it does not come."

    def reached(self) -> tuple[float, float] | None:
        """The least drop of `DROPS` that the method gets to under every seed, and the cost; None where there is none."""
        own = self.metrics.get("methods", {}).get(self.method, {})
        for drop in DROPS:
            if (cost := own.get(f"cost_at_drop_{drop}")) is not None:
                return drop, cost
        return None

    def numbers(self) -> str:
        """Accuracy and cost at the budget, and the gain over fixed precisions, a mean over budgets."""
        point = self.point
        if point is None:
            return ""
        said = measure_of(self.metrics).said
        parts = [
            said(f"at budget {point['budget']:g}: accuracy {percent(point['test_accuracy'])}{self.interval()}"),
            f"cost {point['test_cost']:.2g}",
        ]
        if (gain := self.gain()) is not None:
            parts.append(f"{difference(gain)} points over fixed precisions")
        return ", ".join(parts)

    def interval(self) -> str:
        """The 95 % interval of the accuracy at the budget, with a space before it; empty where it is unknown."""
        point = self.point
        if point is None or point.get("low") is None or point.get("high") is None:
            return ""
        return f" [{figure(point['low'], 1)}, {figure(point['high'], 1)}]"

    def gain(self, rival: str = REFERENCE) -> Mapping[str, float] | None:
        """The difference of the method and a rival, averaged over budgets."""
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
