"""Names at the ends of lines, in place of a legend whose many entries nobody can match with lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 72.0


def spread(places: Sequence[float], least: float) -> list[float]:
    """Places at least so far apart, in the same order and near the given ones."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [places[index] for index in order]
    for _ in range(200):
        close = [k for k in range(1, len(moved)) if moved[k] - moved[k - 1] < least - 1e-6]
        if not close:
            break
        for k in close:
            missing = (least - (moved[k] - moved[k - 1])) / 2
            moved[k - 1] -= missing
            moved[k] += missing
    found = list(places)
    for index, value in zip(order, moved, strict=True):
        found[index] = value
    return found


def name_ends(axes: "Axes", inches: float, size: float = 8.0) -> None:
    """Write each line's label beside its last point, right of axes of about this height; limits must be set before."""
    low, high = axes.get_ylim()
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    ends = [np.asarray(line.get_xydata())[-1] for line in lines]
    heights = [float(np.clip((end[1] - low) / (high - low), 0, 1)) for end in ends]
    places = spread([height * inches * POINTS for height in heights], 1.25 * size)
    for line, end, height, place in zip(lines, ends, heights, places, strict=True):
        axes.annotate(
            str(line.get_label()), (end[0], low + height * (high - low)), (1.04, place / (inches * POINTS)), "data",
            "axes fraction", color=line.get_color(), fontsize=size, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.5},
        )  # fmt: skip
