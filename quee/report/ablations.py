"""The figure of an ablation table: every point's gain over the experiment as it stands, with its intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from quee.measure import ACCURACY, Measure
from quee.report import Row
from quee.report.palette import BLACK, BLUE, GREY, VERMILLION
from quee.report.style import styled, svg


def forest(differences: Sequence[Row], title: str, measure: Measure = ACCURACY) -> str:
    """Gains in `auc` as SVG text: thick lines hold for a row alone (95 %), thin ones for all rows at once.

    Rows whose simultaneous interval leaves out zero are coloured.
    """
    rows = [row for row in differences if row["measure"] == "auc"]
    with styled("ablations"):
        return svg(_figure(rows, title, measure), "ablations")


def _figure(rows: Sequence[Row], title: str, measure: Measure) -> Figure:
    figure = Figure(figsize=(8.6, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    mean, low, high, joint_low, joint_high = (
        100 * np.array([row[name] for row in rows]) for name in ("mean", "low", "high", "joint_low", "joint_high")
    )
    place = np.arange(len(rows))
    colours = [VERMILLION if h < 0 else BLUE if lo > 0 else GREY for lo, h in zip(joint_low, joint_high, strict=True)]
    axes.hlines(place, joint_low, joint_high, colors=colours, linewidth=1.0)
    axes.hlines(place, low, high, colors=colours, linewidth=3.2)
    axes.scatter(mean, place, c=colours, s=18, zorder=3)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(place, [f"{row['axis']}: {row['point']}" for row in rows], fontsize=8)
    for at in [i for i in range(1, len(rows)) if rows[i]["axis"] != rows[i - 1]["axis"]]:
        axes.axhline(at - 0.5, color=GREY, linewidth=0.4)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    # distant rows are cut off, so that the others stay readable
    reach = 1.5 * float(np.quantile(np.maximum(np.abs(joint_low), np.abs(joint_high)), 0.85)) or 1.0
    axes.set_xlim(-reach, reach)
    axes.set(xlabel=f"gain in auc over the experiment as it stands (points of {measure.name})", title=title)
    return figure
