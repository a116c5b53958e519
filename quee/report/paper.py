"""Figures 3C, 4, 5A and 5C of the paper, and the gains of all methods in one figure."""

from collections import defaultdict

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quee.policies.names import OURS, REFERENCE, rivals
from quee.report import Results, Row
from quee.report.ends import name_ends
from quee.report.palette import BLACK, BLUE, VERMILLION
from quee.report.style import MAIN, cost_axes, curve_points, dashes_of, static_methods

LOWEST = -6.0
"""Points below the static hull at which the axis of gains ends."""
KINDS = {
    "as_used": ("as used", "*", 13),
    "width": ("hidden units", "s", 6),
    "samples": ("share of the samples", "o", 6),
    "noise": ("noise on the logits", "^", 6),
}
"""How predictors were changed: words, marker, size of the marker."""


def gains(results: Results) -> Figure | None:
    """Every method's accuracy minus the static hull's at equal budget, where both exist, on one pair of axes."""
    by_method: dict[str, dict[float, float]] = defaultdict(dict)
    for row in results.bands:
        by_method[row["method"]][row["cost"]] = 100 * row["accuracy"]
    reference = by_method.get(REFERENCE)
    names = [name for name in (*OURS, *rivals(by_method)) if name in by_method and name != REFERENCE]
    if reference is None or not names:
        return None
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=BLACK, linewidth=1.6, linestyle="--", label=REFERENCE)
    others = [name for name in names if name not in MAIN]
    plain = dict(zip(others, dashes_of(len(others)), strict=True))
    for name in names:
        costs = sorted(set(by_method[name]) & set(reference))
        colour, dashes, width = MAIN[name] if name in MAIN else (*plain[name], 1.1)
        gain = [by_method[name][cost] - reference[cost] for cost in costs]
        axes.plot(costs, gain, color=colour, linestyle=dashes, linewidth=width, label=name)
    cost_axes(axes, y=False)
    axes.set_ylabel(f"accuracy over {REFERENCE} (points)")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, LOWEST), high)
    name_ends(axes, 4.6)
    return figure


def techniques(results: Results) -> Figure | None:
    """Early exits alone at each precision, precisions alone, and both together (the paper's Fig. 3C)."""
    points = curve_points(results.curve)
    exits = sorted(name for name in points if name.startswith("quee_plan_exits_only_"))
    if "quee_plan" not in points or not exits:
        return None
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    colour, dashes, width = MAIN["quee_plan"]
    axes.plot(*points["quee_plan"], color=colour, linestyle=dashes, linewidth=width, label="both (quee_plan)")
    if "quee_plan_precisions_only" in points:
        axes.plot(*points["quee_plan_precisions_only"], color=VERMILLION, linestyle="--", label="precisions alone")
    for name, (tint, line) in zip(exits, dashes_of(len(exits) + 2)[2:], strict=True):
        label = f"exits alone, {name.removeprefix('quee_plan_exits_only_')}"
        axes.plot(*points[name], color=tint, linestyle=line, linewidth=1.6, label=label)
    tree = [f"static_{name.removeprefix('quee_plan_exits_only_')}" for name in exits]
    fixed = [name for name in static_methods(points) if name in tree]
    axes.plot(
        [points[n][0][0] for n in fixed], [points[n][1][0] for n in fixed], "D", color=BLACK, markersize=5,
        markerfacecolor="white", label="one precision throughout",
    )  # fmt: skip
    cost_axes(axes)
    name_ends(axes, 4.0)
    return figure


def quality(results: Results) -> Figure | None:
    """Curves of plans whose predictors were made worse on purpose, and RMSE against the area under them (Fig. 4)."""
    rows = [row for row in results.quality if row["kind"] in KINDS]
    if not rows:
        return None
    figure = Figure(figsize=(7.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    order = sorted(rows, key=lambda row: (row["rmse"], row["kind"], row["value"]))
    shade = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(order)))
    for row, colour in zip(order, shade, strict=True):
        label = f"{row['rmse']:.3f}: {_words(row)}"
        left.plot(*_curve(results.quality_curve, row), color=colour, linewidth=1.4, label=label)
        words, marker, size = KINDS[row["kind"]]
        right.plot([row["rmse"]], [100 * row["auc"]], marker, color=colour, markersize=size, label=words)
    cost_axes(left)
    left.legend(loc="lower right", fontsize=7, title="RMSE on test", title_fontsize=7)
    right.set(xlabel="RMSE of the predictors on test", ylabel="mean accuracy over budgets (%)")
    return figure


def clusters(results: Results) -> Figure | None:
    """Probability of the true label and entropy in every cluster of a gate's cheapest uniform path (Fig. 5A)."""
    costs = {name: found["cost"] for name, found in results.metrics["quantize"]["precisions"].items()}
    used = {row["path"].split("-")[0] for row in results.clusters}
    cheapest = min(used, key=lambda name: (costs.get(name, 0.0), name), default="")
    shown: dict[int, list[Row]] = defaultdict(list)
    for row in results.clusters:
        if len(set(row["path"].split("-"))) == 1:
            shown[row["gate"]].append(row)
    if not shown:
        return None
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for index, (axes, gate) in enumerate(zip(panels, sorted(shown), strict=True)):
        rows = sorted((r for r in shown[gate] if r["path"].split("-")[0] == cheapest), key=lambda r: r["rank"])
        ranks = [row["rank"] + 1 for row in rows]
        axes.bar(ranks, [row["p_label"] for row in rows], color=BLUE, alpha=0.55)
        axes.set(title=f"gate {gate}, {rows[0]['path'].split('-')[0]}", xlabel="cluster", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        second = axes.twinx()
        second.plot(ranks, [row["entropy"] for row in rows], "o-", color=VERMILLION, markersize=3, linewidth=1.2)
        second.set_ylim(0, 1.05 * max(max(r["entropy"] for by in shown.values() for r in by), 1e-3))
        second.grid(visible=False)
        if index == len(panels) - 1:
            second.set_ylabel("entropy (nats), line")
        else:
            second.tick_params(labelright=False)
    panels[0].set_ylabel("probability of the true label, bars")
    return figure


def cluster_curves(results: Results) -> Figure | None:
    """Accuracy over cost of the plan fitted with other numbers of clusters (Fig. 5C)."""
    rows = sorted((row for row in results.quality if row["kind"] == "clusters"), key=lambda row: row["value"])
    if len(rows) < 2:
        return None
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, (colour, dashes) in zip(rows, dashes_of(len(rows)), strict=True):
        label = f"K = {row['value']:g} (mean {100 * row['auc']:.2f} %)"
        axes.plot(*_curve(results.quality_curve, row), color=colour, linestyle=dashes, linewidth=1.6, label=label)
    cost_axes(axes)
    axes.legend(loc="lower right")
    return figure


def _curve(rows: list[Row], like: Row) -> np.ndarray:
    """(2, P) cost and accuracy in %, by rising cost."""
    own = [r for r in rows if (r["kind"], r["value"]) == (like["kind"], like["value"])]
    return np.array(sorted((r["cost"], 100 * r["accuracy"]) for r in own)).T


def _words(row: Row) -> str:
    if row["kind"] == "as_used":
        return "as used"
    if row["kind"] == "samples":
        return f"{100 * row['value']:g} % of the samples"
    return f"{row['value']:g} hidden units" if row["kind"] == "width" else f"noise {row['value']:g}"
