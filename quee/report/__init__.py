"""The report: figures and one page for any browser, made only from the tables of the other stages."""

from dataclasses import dataclass, field
from typing import Any

from quee.measure import Measure, measure_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The stages' results; rows are those of the Parquet files of the same name."""

    experiment: str
    title: str
    dataset: dict[str, Any]
    """`prepare/dataset.json`"""
    backbone: dict[str, Any]
    """`backbone/backbone.json`"""
    metrics: dict[str, dict[str, Any]]
    """`metrics.json` by stage: backbone, quantize, exits, targets, predictors, policies, evaluate."""
    curve: list[Row]
    bands: list[Row]
    budgets: list[Row]
    """Every method at every budget, mean over seeds, with interval and band."""
    usage: list[Row]
    calibration: list[Row]
    resplits: list[Row] = field(default_factory=list)
    """Empty where there were no repetitions."""
    clusters: list[Row] = field(default_factory=list)
    """`targets/clusters.parquet`: samples, probability of the true label and entropy per node and cluster."""
    quality: list[Row] = field(default_factory=list)
    """`evaluate/quality.parquet`: predictors of other quality and other numbers of clusters."""
    quality_curve: list[Row] = field(default_factory=list)
    sensitivity: list[Row] = field(default_factory=list)
    """`quantize/sensitivity.parquet`: the network with one layer quantized."""
    candidates: list[Row] = field(default_factory=list)
    """`exits/candidates.parquet`: what was tried as exit heads, on held-out training images."""
    gates: dict[str, Any] = field(default_factory=dict)
    """`backbone/gates.json`: what gates were chosen from; empty where the experiment names them."""
    tree: dict[str, Any] = field(default_factory=dict)
    """`tree/tree.json`: the tree, and what it was chosen from where stage `tree` chose anything."""
    labelled: list[Row] = field(default_factory=list)
    """`evaluate/labelled.parquet`: accuracy on labelled images, where the others have no labels."""
    executed: dict[str, Any] = field(default_factory=dict)
    """Measurements of benchmarks/runtime.py, if it was run."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 by file read."""

    @property
    def measure(self) -> Measure:
        """What the figures called accuracy in the tables are."""
        return measure_of(self.dataset)

    @property
    def methods(self) -> list[str]:
        """Every method, QuEE's first."""
        names = self.metrics["evaluate"]["methods"]
        return sorted(names, key=lambda name: (not name.startswith("quee_"), name))

    def middle_budget(self, wanted: float = 0.2) -> float | None:
        """The budget nearest to `wanted` at which usage was recorded."""
        budgets = {row["budget"] for row in self.usage}
        return min(budgets, key=lambda budget: (abs(budget - wanted), budget)) if budgets else None
