"""The few numbers by which people compare experiments: metrics named in words, the main curves, and a small table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quee.evaluation.near import DROPS
from quee.measure import Measure, measure_of
from quee.policies.methods import Role
from quee.policies.names import BOUND, REFERENCE, named
from quee.report.sentence import Summary, deployed_curve
from quee.settings.bundle import Bundle
from quee.work.counts import counted
from quee.work.percentages import DASH, figure
from tasks.mlflow.values import Point

MOST = 25
"""Metrics of an experiment's run; curves are left out beyond it."""

COSTS = ("0.1", "0.2", "0.4")
"""Budgets at which experiments are compared, where they were evaluated there."""

DRAWN: tuple[Role, ...] = ("ours", "reference", "rival", "bound")
"""Roles of the methods whose curves and numbers are shown."""

CURVE, PER_UNIT = "curve/", 1000
"""Prefix of a curve's name, and its steps in a unit of cost: the value at step 200 is the accuracy at cost 0.2."""

UNITS = (
    "accuracies in %, gains of the deployed method in points of accuracy averaged over budgets [95 % interval], costs in units "
    "of the network at 8 bits (BitFLOPs)"
)
"""Of the small table, in words."""

SHORT = {"method": "method", "cost at 0.5 points below float": "near float", "gain over it": "gain over it"}
"""Columns of the small table where there is room for few, and what they are called there."""

BATCH = 64
"""Batch size at which executed speeds are compared."""


@dataclass(frozen=True)
class Figures:
    """What an experiment's run says in numbers."""

    evaluate: Mapping[str, Any]
    """`evaluate/metrics.json`, in terms of the current format."""
    policy: str
    """The bundle's policy, by its name in the registry."""
    budget: float | None
    """The bundle's budget."""
    bytes: int = 0
    """Size of the bundle."""
    executed: Mapping[str, Any] = field(default_factory=dict)
    """Measurements of benchmarks/runtime.py, if it was run."""
    points: Sequence[Mapping[str, Any]] = ()
    """`evaluate/budgets.parquet`, with the policies that `auto` chose"""

    @property
    def measure(self) -> Measure:
        return measure_of(self.evaluate)

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.evaluate.get("methods", {})
        return found

    @property
    def method(self) -> str | None:
        """The curve of the deployed policy, or of our first policy that was evaluated."""
        return deployed_curve(self.policy, self.methods)

    @property
    def summary(self) -> Summary:
        """What the report says of the deployed method."""
        budget = Bundle().budget if self.budget is None else self.budget
        return Summary(self.evaluate, self.points, self.method or "", budget)

    @property
    def untold(self) -> bool:
        """Whether methods were evaluated, but not the float network."""
        return bool(self.methods) and self.evaluate.get("fp32_accuracy") is None

    @property
    def shown(self) -> list[str]:
        """The methods of the small table: the deployed one, our others, what they are compared with, the bound."""
        order = [self.method, *named(*DRAWN)]
        return [name for name in dict.fromkeys(order) if name is not None and name in self.methods]

    def gain(self, rival: str) -> Mapping[str, float]:
        """The deployed method's gain in `auc` over another, with its interval; empty where it is not known."""
        return self.summary.gain(rival) or {}

    def metrics(self) -> dict[str, float]:
        """The metrics by name, in the digits that MLflow's columns have room for. Numbers that are not known are left out.

        What runs differ in comes first: MLflow's page of two runs opens with a figure of the first metric.
        """
        own = self.methods.get(self.method or "", {})
        at, cost_at = own.get("accuracy_at_budget", {}), own.get("cost_at_budget", {})
        default = "" if self.budget is None else f"{self.budget:g}"
        found: dict[str, Any] = {
            "accuracy of the default": at.get(default),
            "cost of the default": cost_at.get(default),
            "float accuracy": self.evaluate.get("fp32_accuracy"),
            **{f"cost at {counted(drop, 'point')} below float": own.get(f"cost_at_drop_{drop}") for drop in DROPS},
            **{f"accuracy at cost {cost}": at.get(cost) for cost in COSTS},
            "auc": own.get("auc"),
            **self._gains(),
            "oracle gap closed": self.evaluate.get("oracle_gap_closed", {}).get(self.method),
            "images/s over static": self.executed.get("fixture", {}).get(f"ratio_{BATCH}"),
            "test images": self.evaluate.get("test_samples"),
            "bundle in MB": self.bytes / 1e6 if self.bytes else None,
        }
        return {self.measure.said(name): float(f"{value:.5g}") for name, value in found.items() if value is not None}

    def _gains(self) -> dict[str, float | None]:
        rivals = {"static": REFERENCE, "confidence": next(iter(named("rival")), "")}
        sides = {"": "mean", " at least": "low", " at most": "high"}
        return {
            f"gain over {word}{end}": self.gain(rival).get(side)
            for word, rival in rivals.items()
            for end, side in sides.items()
        }

    def curves(self, bands: Sequence[Mapping[str, Any]]) -> list[Point]:
        """The main methods' accuracy over cost, from `evaluate/bands.parquet`."""
        names = self.shown[: MOST - len(self.metrics())]
        return [
            Point(f"{CURVE}{row['method']}", round(PER_UNIT * row["cost"]), float(row["accuracy"]))
            for row in sorted(bands, key=lambda row: (row["method"], row["cost"]))
            if row["method"] in names
        ]

    def sentence(self) -> str:
        """What is deployed, in the report's sentence with the method's name; empty where nothing was evaluated."""
        return "" if self.method is None else self.summary.sentence(named=True)

    def table(self) -> list[dict[str, str]]:
        """A row per main method, for people: accuracies and gains in %, costs in units of the static 8-bit network."""
        said = self.measure.said
        rows = []
        for name in self.shown:
            own = self.methods[name]
            role = {self.method: " (deployed)", BOUND: " (bound)"}.get(name, "")
            gain = self.gain(name)
            interval = "" if not gain else " [{}, {}]".format(*(_signed(gain[side]) for side in ("low", "high")))
            row = {"method": f"{name}{role}"}
            row |= {f"cost at {counted(d, 'point')} below float": _cost(own.get(f"cost_at_drop_{d}")) for d in DROPS}
            row |= {said(f"accuracy at cost {c}"): figure(own.get("accuracy_at_budget", {}).get(c)) for c in COSTS}
            row |= {"auc": figure(own.get("auc")), "gain over it": f"{_signed(gain.get('mean'))}{interval}"}
            rows.append(row)
        return [{key: row[key] for key in row if any(other[key] != DASH for other in rows)} for row in rows]


def _cost(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return figure(value, 2, -1.0, 1.0, sign=True)
