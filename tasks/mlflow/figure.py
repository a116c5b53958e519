"""Figures as MLflow shows them beside a run's numbers. Part of tasks/tracking.py."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = {
    "quee_plan": ("#0b5fa5", "-", 2.2),
    "quee_fitted_q": ("#d1495b", "-", 2.2),
    "static_hull": ("#555555", "--", 1.4),
    "confidence_hull": ("#2e933c", "--", 1.4),
    "random_routing": ("#b8a100", ":", 1.4),
    "oracle": ("#999999", "-.", 1.0),
}
"""Methods drawn as lines: colour, style, width. Single static paths are points."""


def curve_figure(curve: "pa.Table", title: str) -> Figure:
    """Accuracy on test over cost (log axis), by method."""
    rows = [row for row in curve.to_pylist() if row["split"] == "test"]
    first = min((row["seed"] for row in rows if row["seed"] is not None), default=None)
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["seed"] in (first, None):
            points.setdefault(row["method"], []).append((row["cost"], 100 * row["accuracy"]))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for method, (colour, style, width) in SHOWN.items():
        if method in points:
            axes.plot(*zip(*sorted(points[method]), strict=True), style, color=colour, linewidth=width, label=method)
    for method, found in points.items():
        if method.startswith("static_") and method not in SHOWN and len(found) == 1:
            axes.plot(*found[0], "o", color="#555555", markersize=4)
            axes.annotate(
                method.removeprefix("static_"), found[0], textcoords="offset points", xytext=(4, -10), fontsize=8
            )
    axes.set(xscale="log", xlabel="cost (BitFLOPs, static w8a8 = 1)", ylabel="accuracy on test (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def sensitivity_figure(found: "pa.Table", title: str) -> Figure:
    """Signal to noise of the logits with one layer quantized alone, by layer in the order of execution."""
    rows = sorted(found.to_pylist(), key=lambda row: row["position"])
    names = list(dict.fromkeys(row["layer"] for row in rows))
    figure = Figure(figsize=(8, 2 + 0.16 * len(names)), layout="constrained")
    axes = figure.subplots()
    for precision in sorted({row["precision"] for row in rows}):
        own = [row for row in rows if row["precision"] == precision]
        axes.plot([r["sqnr_db"] for r in own], [names.index(r["layer"]) for r in own], ".-", label=precision)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="signal to noise of the logits, this layer alone quantized (dB)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
