"""Common style of all figures: colours, axes, and SVG text with the same bytes for the same results."""

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from quee.policies.names import named
from quee.report import Row
from quee.report.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

MAIN = {
    **{name: (colour, "-", 2.4) for name, colour in zip(named("ours"), cycle((BLUE, VERMILLION, ORANGE, SKY)))},
    **dict.fromkeys(named("reference"), (BLACK, "--", 1.6)),
    **dict.fromkeys(named("rival"), (GREEN, "-.", 1.8)),
    **dict.fromkeys(named("control"), (PURPLE, ":", 2.0)),
    **dict.fromkeys(named("bound"), (GREY, (0, (6, 2, 1, 2, 1, 2)), 1.4)),
}
"""Methods drawn in the first figure, by their role: colour, dashes, width."""
CYCLE = (
    (BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, (0, (5, 1))), (BLACK, (0, (1, 1))),
    (SKY, "-"), (GREY, "--"),
)  # fmt: skip
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
}


def styled(name: str) -> AbstractContextManager[None]:
    """Within it a figure of this name has the common style and ids that are always the same."""
    style: list[str | dict[str, Any]] = ["default", STYLE | {"svg.hashsalt": f"quee.{name}"}]
    return matplotlib.style.context(style, after_reset=True)


DARK = "<style>@media (prefers-color-scheme: dark) { .figure:root { filter: invert(.92) hue-rotate(180deg); } }</style>"
"""Colours where a reader's system is dark, of a figure that is a file of its own; in a page they are the page's."""


def svg(figure: Figure, name: str) -> str:
    """SVG text without date, metadata or document type; ids contain the figure's name, so a page can hold several figures."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    head, rest = text.replace("<svg", '<svg class="figure"', 1).split(">", 1)
    return "\n".join(line.rstrip() for line in f"{head}>\n{DARK}{rest}".splitlines()) + "\n"


def plain(text: str) -> str:
    """A user's text for a figure; dollars are escaped, because they would start a formula."""
    return text.replace("$", r"\$")


def curve_points(rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """Cost and accuracy in % on test, (2, P) by rising cost, by method; the first seed where there are several."""
    test = [row for row in rows if row["split"] == "test"]
    first = min((row["seed"] for row in test), default=0)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in test:
        if row["seed"] == first:
            found[row["method"]].append((row["cost"], 100 * row["accuracy"]))
    return {method: np.array(sorted(points)).T for method, points in found.items()}


def static_methods(points: dict[str, np.ndarray]) -> list[str]:
    """Methods of one uniform precision, by rising cost."""
    names = [method for method in points if method.startswith("static_") and method not in MAIN]
    return sorted(names, key=lambda method: (points[method][0][0], method))


def dashes_of(count: int) -> Sequence[tuple[str, str | tuple[int, tuple[int, ...]]]]:
    return [CYCLE[index % len(CYCLE)] for index in range(count)]


def cost_axes(axes: Axes, x: bool = True, y: bool = True) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if x:
        axes.set_xlabel("cost (BitFLOPs, static w8a8 = 1)")
        axes.tick_params(labelbottom=True)
    if y:
        axes.set_ylabel("accuracy on test (%)")
