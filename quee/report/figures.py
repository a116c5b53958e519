"""Figures as SVG text: the same bytes for the same results, without references outside of the file."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from quee.measure import ACCURACY
from quee.policies.names import OURS
from quee.report import Results, Row, parts
from quee.report.captions import CAPTIONS
from quee.report.curve import curve_figure
from quee.report.palette import BLUE, GREY
from quee.report.paper import cluster_curves, clusters, gains, quality, techniques
from quee.report.sentence import Summary
from quee.report.style import MAIN, cost_axes, curve_points, dashes_of, plain, static_methods, styled, svg
from quee.report.trees import candidates
from quee.work.percentages import DASH

CLASSES = 24
"""Most classes shown; of more classes, those that exit earliest and latest are shown."""
QUALITY = {
    "rmse": "RMSE (lower is better)",
    "ece": "calibration error (lower is better)",
    "auroc": "AUROC (higher is better)",
    "aurc": "AURC (lower is better)",
}


def others(results: Results) -> Figure | None:
    """Accuracy over cost of all methods, one panel per family, `quee_plan` in grey in each."""
    points = curve_points(results.curve)
    families: dict[str, list[str]] = defaultdict(list)
    static = static_methods(points)
    for method in sorted(set(points) - set(static)):
        known = (f for f in ("confidence", "entropy", "quee_plan") if method.startswith(f + "_"))
        family = "main" if method in MAIN else next(known, "other")
        families[family].append(method)
    if not families and not static:
        return None
    titles = {
        "main": "the main methods",
        "confidence": "exits by confidence",
        "entropy": "exits by entropy",
        "other": "exits from the literature",
        "quee_plan": "quee_plan, restricted",
    }
    rows = -(-(len(families) + bool(static)) // 2)
    figure = Figure(figsize=(7.6, 3.7 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, family in zip(panels, families, strict=False):
        if "quee_plan" in points:
            axes.plot(*points["quee_plan"], color="#bbbbbb", linewidth=4, label="quee_plan")
        for method, (colour, dashes) in zip(families[family], dashes_of(len(families[family])), strict=True):
            if (family, method) != ("main", "quee_plan"):
                label = method.removeprefix(f"{family}_").replace("_", " ")
                axes.plot(*points[method], linestyle=dashes, color=colour, linewidth=1.6, label=label)
        axes.set_title(titles.get(family, family))
    if static:
        axes = panels[len(families)]
        if "quee_plan" in points:
            axes.plot(*points["quee_plan"], color="#bbbbbb", linewidth=4, label="quee_plan")
        for method, (colour, _), marker in zip(static, dashes_of(len(static)), "oDs^vP*X" * len(static), strict=False):
            label = method.removeprefix("static_")
            axes.plot(*points[method], marker, color=colour, markersize=6, linestyle="", label=label)
        axes.set_title("one precision throughout")
    for index, axes in enumerate(panels):
        if index >= len(families) + bool(static):
            axes.set_visible(False)
            continue
        cost_axes(axes, x=index + 2 >= len(families) + bool(static), y=index % 2 == 0)
        axes.legend(loc="lower right", fontsize=8)
    return figure


def used(results: Results) -> str:
    """The method whose use of paths is shown: of ours the last that there are rows of, which puts the others together."""
    known = {row["method"] for row in results.usage}
    return next((name for name in reversed(OURS) if name in known), OURS[0])


def usage(results: Results) -> Figure | None:
    """By class, the share of samples leaving at each gate and the share of segments run at each precision."""
    budget, method = results.middle_budget(), used(results)
    rows = [row for row in results.usage if row["method"] == method and row["budget"] == budget]
    if not rows:
        return None
    names = {row["label"]: row["class"] for row in rows}
    paths = [row["path"].split("-") for row in rows]
    precisions = sorted({p for path in paths for p in path}, key=lambda p: [int(n) for n in re.findall(r"\d+", p)])
    gates = len(results.backbone["gates"])
    exits = {label: np.zeros(gates) for label in names}
    runs = {label: np.zeros(len(precisions)) for label in names}
    for row, path in zip(rows, paths, strict=True):
        exits[row["label"]][len(path) - 1] += row["samples"]
        for precision in path:
            runs[row["label"]][precisions.index(precision)] += row["samples"]
    labels = sorted(names)
    if len(labels) > CLASSES:
        by_depth = sorted(labels, key=lambda k: (exits[k] @ np.arange(gates) / exits[k].sum(), k))
        labels = by_depth[: CLASSES // 2] + by_depth[-CLASSES // 2 :]
    figure = Figure(figsize=(7.6, 1.6 + 0.3 * len(labels)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    text = [plain(names[label] if len(names[label]) <= 18 else names[label][:17] + "…") for label in labels]
    _stack(left, np.stack([exits[k] for k in labels]), [f"gate {g + 1}" for g in range(gates)], "cividis")
    _stack(right, np.stack([runs[k] for k in labels]), precisions, "plasma")
    left.set(title="where samples leave", yticks=range(len(labels)), yticklabels=text, ylabel="class")
    right.set_title("precision of the segments run")
    left.invert_yaxis()
    return figure


def calibration(results: Results) -> Figure:
    """Calibration error of the targets over the number of clusters, a second-order polynomial through the points."""
    grouped: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in results.calibration:
        grouped[row["split"], row["gate"]][row["clusters"]].append(row["ece"])
    splits = sorted({split for split, _ in grouped}, reverse=True)
    gates = sorted({gate for _, gate in grouped})
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for gate, (colour, dashes), marker in zip(gates, dashes_of(len(gates)), "osD^vPX*" * len(gates), strict=False):
            found = grouped.get((split, gate), {})
            clusters = np.array(sorted(found), dtype=float)
            error = np.array([np.mean(found[int(k)]) for k in clusters])
            axes.plot(clusters, error, marker, color=colour, markersize=5, linestyle="", label=f"gate {gate}")
            if len(clusters) > 3:
                fine = np.linspace(clusters[0], clusters[-1], 100)
                fit = np.polynomial.Polynomial.fit(clusters, error, 2)
                axes.plot(fine, fit(fine), color=colour, linestyle=dashes, linewidth=1.4)
        chosen = results.metrics["targets"].get("clusters")
        if chosen is not None:
            axes.axvline(chosen, color=GREY, linewidth=1, linestyle=":")
        axes.set(title=f"{split} split", xlabel="clusters K")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("calibration error (ECE)")
    panels[0].set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(gates), 6))
    return figure


def predictors(results: Results) -> Figure | None:
    """Quality of the predicted error probabilities on validation, by gate."""
    gates = sorted(results.metrics["predictors"]["gates"], key=int)
    if not gates:
        return None
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(2, 2).ravel(), QUALITY.items(), strict=True):
        found = [results.metrics["predictors"]["gates"][gate][key] for gate in gates]
        values = [value or 0.0 for value in found]
        axes.bar(gates, values, width=0.5, color=BLUE)
        for x, value in enumerate(found):
            place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 9}
            axes.annotate(DASH if value is None else f"{value:.3f}", (x, value or 0.0), **place)
        if key == "auroc":
            axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
        axes.set(title=title, xlabel="gate", ylim=(0, 1.2 * max([*values, 1e-3])))
        axes.grid(visible=False, axis="x")
    return figure


def sensitivity(results: Results) -> Figure:
    """Signal-to-noise ratio of the logits when one layer alone is quantized, by layer in the order of execution."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(results.sensitivity, key=lambda row: row["position"]):
        grouped[row["precision"]].append(row)
    precisions = list(grouped)
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for precision, (colour, dashes) in zip(precisions, dashes_of(len(precisions)), strict=True):
        rows = [row for row in grouped[precision] if row["sqnr_db"] is not None]
        axes.plot([r["position"] for r in rows], [r["sqnr_db"] for r in rows], color=colour, linestyle=dashes,
                  marker=".", label=precision)  # fmt: skip
    rows = grouped[precisions[0]]
    starts = [r["position"] for before, r in pairwise(rows) if r["segment"] != before["segment"]]
    for start in starts:
        axes.axvline(start - 0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="layer, in the order of execution (dotted: gates)", ylabel="signal to noise of the logits (dB)")
    axes.legend(ncols=min(len(precisions), 4))
    return figure


def _stack(axes: Axes, amounts: np.ndarray, names: Sequence[str], colours: str) -> None:
    """Horizontal bars of shares; amounts (classes, parts)."""
    share = 100 * amounts / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-12)
    left = np.zeros(len(share))
    shades = matplotlib.colormaps[colours](np.linspace(0.9, 0.1, len(names)))
    for part, name in enumerate(names):
        axes.barh(range(len(share)), share[:, part], left=left, color=shades[part], label=name, height=0.8)
        left += share[:, part]
    axes.set(xlim=(0, 100), xlabel="share (%)")
    axes.grid(visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / (0.3 * len(share))), ncols=min(len(names), 4),
                handlelength=1, columnspacing=1)  # fmt: skip


def usage_caption(results: Results) -> tuple[str, str]:
    return "What each class uses", (
        f"{used(results)} at a budget of {results.middle_budget() or 0:g}. Left: the share of a class's test samples "
        "that leave at each gate. Right: the share of the segments run for it at each precision. Classes that "
        "leave early at low precision are the ones this policy finds easy."
    )


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: the page, the stage's `figures/NAME.svg` and MLflow's artifacts follow from FIGURES."""

    name: str
    make: Callable[[Results], Figure | None]
    """Returns None where the results hold nothing to draw."""
    caption: tuple[str, str] | Callable[[Results], tuple[str, str]]
    """Title and caption, for readers who do not know the method."""
    needs: tuple[str, ...] = ()
    """Fields of `Results` without which there is no figure."""
    after: str = "executed"
    """Section of the page that the figure follows; figures of one section keep the order of FIGURES."""
    table: Callable[[Results], str] | None = None
    """HTML with the figure's numbers."""

    def svg(self, results: Results) -> str | None:
        """The figure as SVG text, for any settings of matplotlib; None where there is nothing to draw."""
        if not all(getattr(results, field) for field in self.needs):
            return None
        with styled(self.name):
            figure = self.make(results)
            if figure is not None and results.measure is not ACCURACY:
                for text in figure.findobj(Text):
                    text.set_text(results.measure.said(text.get_text()))  # type: ignore[attr-defined]
            return None if figure is None else svg(figure, self.name)

    def words(self, results: Results) -> tuple[str, str]:
        """Title and caption."""
        return self.caption(results) if callable(self.caption) else self.caption


FIGURES = [
    Drawing("gains", gains, CAPTIONS["gains"], ("bands",), after="sure"),
    Drawing("techniques", techniques, CAPTIONS["techniques"], after="savings"),
    Drawing("others", others, CAPTIONS["others"], after="savings"),
    Drawing("usage", usage, usage_caption, ("usage",), after="inputs"),
    Drawing("quality", quality, CAPTIONS["quality"], ("quality",), table=parts.quality),
    Drawing("clusters", clusters, CAPTIONS["clusters"], ("clusters",)),
    Drawing("calibration", calibration, CAPTIONS["calibration"], ("calibration",), table=parts.calibration),
    Drawing("cluster_curves", cluster_curves, CAPTIONS["cluster_curves"], ("quality",)),
    Drawing("predictors", predictors, CAPTIONS["predictors"]),
    Drawing("candidates", candidates, CAPTIONS["candidates"], ("tree",)),
    Drawing("sensitivity", sensitivity, CAPTIONS["sensitivity"], ("sensitivity",)),
]
"""All figures of the report after the first; a new figure is a function and a line."""


def draw(results: Results, summary: Summary) -> dict[str, str]:
    """Every figure that the results allow, as SVG text by name, the first of the page first."""
    found = [("curves", curve_figure(results, summary)), *((drawing.name, drawing.svg(results)) for drawing in FIGURES)]
    return {name: text for name, text in found if text is not None}
