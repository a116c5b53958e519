"""One figure for several experiments: a panel each, accuracy against the float network's over cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from quee.report.curve import WORDS
from quee.report.palette import GREY
from quee.report.style import MAIN, cost_axes, plain, styled, svg

COLUMNS = 3
LEAST, MOST = 1 / 32, 1.25
"""Costs shown."""
LOSS, GAIN = 4.0, 1.5
"""Points of accuracy below and above the float network that are shown."""


@dataclass(frozen=True)
class Line:
    """An experiment's panel."""

    name: str
    float_accuracy: float
    points: Mapping[str, Sequence[tuple[float, float]]]
    """By method, cost and accuracy by rising cost."""


def drawn(experiments: Sequence[Line]) -> str:
    """The figure as SVG text. Raises ValueError without experiments."""
    with styled("overview"):
        return svg(overview(experiments), "overview")


def overview(experiments: Sequence[Line]) -> Figure:
    """Raises ValueError without experiments."""
    if not experiments:
        raise ValueError("a figure of all experiments needs one at least")
    columns = min(COLUMNS, len(experiments))
    rows = -(-len(experiments) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.4, 2.5 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for index, (axes, experiment) in enumerate(zip(panels, experiments, strict=False)):
        axes.axhline(0, color=GREY, linewidth=1)
        for method, points in experiment.points.items():
            if points:
                colour, dashes, width = MAIN[method]
                cost, accuracy = np.array(points).T
                loss = 100 * (accuracy - experiment.float_accuracy)
                look = {"linestyle": dashes, "color": colour, "linewidth": width, "label": WORDS.get(method, method)}
                axes.plot(cost, loss, marker="o" if len(points) == 1 else "", markersize=4, **look)
        axes.set_title(f"{plain(experiment.name)}, float {100 * experiment.float_accuracy:.1f} %", fontsize=9)
        cost_axes(axes, x=index + columns >= len(experiments), y=False)
        axes.set_xlabel("cost (static w8a8 = 1)" if index + columns >= len(experiments) else "")
        axes.xaxis.set_major_locator(FixedLocator([0.03, 0.1, 0.3, 1.0]))
        axes.set_ylim(-LOSS, GAIN)
        axes.set_xlim(LEAST, MOST)
    for axes in panels[len(experiments) :]:
        axes.set_visible(False)
    figure.supylabel("points of accuracy over the float network", fontsize=9)
    known = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if known:
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known))
    return figure
