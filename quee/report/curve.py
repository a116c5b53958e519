"""The first figure: accuracy over computation of what is deployed and of what it competes with, names at the lines.

It is SVG by hand, because it must follow a reader's dark mode, be read at the width of a phone, and say of every point what
it is. The same text stands in the page and alone in a file.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from quee.measure import ACCURACY, Measure
from quee.policies.names import REFERENCE, named
from quee.policies.registry import METHODS
from quee.report import Results, Row
from quee.report.ends import spread
from quee.report.lines import DEEP, Point, line_of, operating, round_costs
from quee.report.sentence import Summary, share
from quee.work.percentages import percent

WIDTH, HEIGHT = 480, 345
DRAWN = 1.375
"""Pixels of a unit where nothing else says how large the figure is drawn."""
LEFT, RIGHT, TOP, BOTTOM = 56, 158, 14, 44
"""Margins: ticks, names of the lines, nothing, ticks and the axis' name."""
LINE = 20.0
"""Least distance of two names."""
DEAREST = 1.3
"""Cost up to which points are shown."""
RIVAL = named("rival")[0]
WORDS = {REFERENCE: "fixed precisions", RIVAL: "confidence exits"}
STYLE = """
.qc:root { background: #fff; }
.qc text { font: 11px system-ui, sans-serif; fill: #333; }
.qc .tick { fill: #666; font-size: 10px; }
.qc .grid { stroke: #000; stroke-opacity: .1; }
.qc .float { stroke: #555; stroke-dasharray: 2 3; }
.qc .ours { --c: #0072b2; } .qc .other0, .qc .plain { --c: #555; } .qc .other1 { --c: #00855f; }
.qc polyline { fill: none; stroke: var(--c); stroke-width: 1.8; }
.qc .ours polyline { stroke-width: 3; }
.qc .other0 polyline { stroke-dasharray: 6 4; } .qc .other1 polyline { stroke-dasharray: 8 3 2 3; }
.qc .band { fill: var(--c); fill-opacity: .14; }
.qc .ours text { font-weight: 700; } .qc g text { fill: var(--c); }
.qc circle { fill: var(--c); fill-opacity: .45; stroke: transparent; stroke-width: 9px; }
.qc circle:hover { fill-opacity: 1; }
.qc .diamond { fill: #fff; stroke: #333; stroke-width: 1.4; }
.qc .ring { fill: none; stroke: var(--c); stroke-width: 2.5; }
@media (max-width: 40rem) { .qc text { font-size: 17px; } .qc .tick { font-size: 15px; } .qc .of { display: none; } }
@media (prefers-color-scheme: dark) {
.qc:root { background: #141414; }
.qc text { fill: #ddd; } .qc .tick { fill: #aaa; } .qc .grid { stroke: #fff; } .qc .float { stroke: #aaa; }
.qc .ours { --c: #56b4e9; } .qc .other0, .qc .plain { --c: #b5b5b5; } .qc .other1 { --c: #35c99a; }
.qc .diamond { fill: #111; stroke: #ddd; } }
@media print {
.qc text { fill: #000; } .qc .ours { --c: #0072b2; } .qc .other0, .qc .plain { --c: #555; } .qc .other1 { --c: #00855f; }
.qc .grid { stroke: #000; } .qc .diamond { fill: #fff; stroke: #333; } }
"""


@dataclass(frozen=True)
class Scale:
    """Places of costs (logarithmic) and of accuracies in %, in the figure's units."""

    costs: tuple[float, float]
    accuracies: tuple[float, float]

    def x(self, cost: float) -> float:
        low, high = map(math.log, self.costs)
        return LEFT + (math.log(cost) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, accuracy: float) -> float:
        low, high = self.accuracies
        return HEIGHT - BOTTOM - (accuracy - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


@dataclass(frozen=True)
class Curve:
    """One line of the figure."""

    name: str
    """What stands at its end."""
    kind: str
    """Its look: `ours`, `other0` or `other1`."""
    line: Sequence[Point]
    points: Sequence[tuple[Row, str]]
    """Operating points, and the first words of what each says at a touch."""
    band: Sequence[Row] = ()
    """`cost`, `low` and `high`"""
    deployed: Mapping[str, Any] | None = None
    """The point at the default budget."""


def drawn_methods(summary: Summary) -> list[str]:
    """The methods of the first figure, what is deployed last so that it lies on top."""
    return [name for name in (REFERENCE, RIVAL) if name != summary.method] + [summary.method]


def curve_figure(results: Results, summary: Summary) -> str:
    """The figure of one experiment as SVG text."""
    curves = []
    for index, name in enumerate(drawn_methods(summary)):
        ours = name == summary.method
        rows = operating(results.curve, name)
        curve = Curve(
            WORDS.get(name, name),
            "ours" if ours else f"other{index}",
            line_of(results.curve, results.bands, name),
            [(row, f"{name}{_told(results, row)}") for row in rows],
            [row for row in results.bands if row["method"] == name] if ours else [],
            summary.point if ours else None,
        )
        curves.append(curve)
    full = results.metrics["evaluate"].get("fp32_accuracy")
    levels = {} if full is None else {full: f"float, {percent(full)}"}
    return figure_of([curve for curve in curves if curve.line], levels, results.measure, _statics(results))


def figure_of(
    curves: Sequence[Curve],
    levels: Mapping[float, str],
    measure: Measure = ACCURACY,
    statics: Mapping[str, Row] | None = None,
    deep: float = DEEP,
) -> str:
    """Curves, the last one on top, as SVG text.

    `levels` are accuracies with a name, drawn across, and `statics` the points of the whole network at one precision. What is
    more than `deep` points below the highest value is cut off.
    """
    statics = statics or {}
    marks = [(row["cost"], row["accuracy"]) for row in statics.values()]
    scale = _scale([point for line in (*(curve.line for curve in curves), marks) for point in line], levels, deep)
    said = measure.said
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="qc" width="{DRAWN * WIDTH:.0f}" height="{DRAWN * HEIGHT:.0f}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said("accuracy")} over computation">',
        f"<style>{STYLE}</style>",
        f'<clipPath id="curves-inside"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        *_axes(scale, said("accuracy on test")),
    ]
    names: list[tuple[float, str, str]] = []
    for level, name in levels.items():
        y = scale.y(100 * level)
        parts.append(f'<line class="float" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        names.append((y, "", name))
    for curve in curves:
        path = " ".join(f"{scale.x(cost):.1f},{scale.y(100 * accuracy):.1f}" for cost, accuracy in curve.line)
        points = "".join(_point(row, told, scale) for row, told in curve.points)
        parts.append(
            f'<g class="{curve.kind}" clip-path="url(#curves-inside)">{_band(curve.band, scale)}<polyline points="{path}"/>'
            f"{points}{_ring(curve.deployed, scale)}</g>"
        )
        names.append((scale.y(100 * curve.line[-1][1]), curve.kind, curve.name))
    parts += [
        _diamond(name, row, scale) for name, row in statics.items() if scale.costs[0] <= row["cost"] <= scale.costs[1]
    ]
    parts += _names(names)
    return "\n".join([*parts, "</svg>\n"])


def _statics(results: Results) -> dict[str, Row]:
    names = {row["method"]: None for row in results.curve}
    points = {
        name: found
        for name in names
        if name.startswith("static_") and len(found := operating(results.curve, name)) == 1
    }
    return {name: points[name][0] for name in sorted(points, key=lambda n: points[n][0]["cost"]) if name != REFERENCE}


def _scale(points: Sequence[Point], levels: Iterable[float], deep: float) -> Scale:
    shown = [point for point in points if point[0] <= DEAREST]
    costs, values = [cost for cost, _ in shown], [100 * accuracy for _, accuracy in shown]
    values += [100 * level for level in levels]
    top = min(max(values, default=100.0) + 0.4, 100.0)
    low = max(min(values, default=0.0) - 0.4, top - deep)
    return Scale((min(costs, default=0.01) * 0.93, max(*costs, 1.0) * 1.08), (low, top))


def _axes(scale: Scale, name: str) -> Iterable[str]:
    low, high = scale.accuracies
    step = next(s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0) if (high - low) / s <= 7)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = scale.y(number * step)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        value = f"{number * step:.{0 if step >= 1 else 1}f}"
        yield f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
    for cost in round_costs(*scale.costs):
        x, label = scale.x(cost), f"{100 * cost:g} %"
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>'
    yield f'<text class="tick" x="{LEFT}" y="{HEIGHT - 8}">computation, of the 8-bit network’s</text>'
    yield f'<text class="tick" transform="translate(12 {TOP}) rotate(-90)" text-anchor="end">{escape(name)}, %</text>'


def _band(band: Iterable[Row], scale: Scale) -> str:
    rows = sorted(band, key=lambda row: row["cost"])
    ends = [(row, "high") for row in rows] + [(row, "low") for row in reversed(rows)]
    path = " ".join(f"{scale.x(row['cost']):.1f},{scale.y(100 * row[side]):.1f}" for row, side in ends)
    return f'<polygon class="band" points="{path}"/>' if rows else ""


def _point(row: Row, words: str, scale: Scale) -> str:
    told = f"{words}: {percent(row['accuracy'])} at {_cost(row['cost'])}"
    x, y = scale.x(row["cost"]), scale.y(100 * row["accuracy"])
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{escape(told)}</title></circle>'


def _cost(cost: float) -> str:
    return f"cost {cost:.3g} ({share(cost)})"


def _told(results: Results, row: Row) -> str:
    """What sets a point: its λ or threshold, and where the method puts several policies together, those of the same point."""
    if own := knob_of(row):
        return own
    known = set(results.metrics.get("policies", {}).get("auto", {}).get("budgets", {}).values())
    curves = {METHODS[name].shown for name in known if name in METHODS}
    same = (
        other
        for other in results.curve
        if other["method"] in curves
        and (other["split"], other["seed"]) == (row["split"], row["seed"])
        and abs(other["cost"] - row["cost"]) + abs(other["accuracy"] - row["accuracy"]) < 1e-9
    )
    found = next(same, None)
    return "" if found is None else f", as {found['method']}{knob_of(found)}"


def knob_of(row: Row) -> str:
    """The λ or threshold of a point, to follow a name; empty where it has none."""
    for key, sign in (("lambda", "λ"), ("threshold", "threshold")):
        if row.get(key) is not None:
            return f", {sign} {row[key]:.3g}"
    return ""


def _ring(point: Mapping[str, Any] | None, scale: Scale) -> str:
    if point is None:
        return ""
    told = f"deployed, budget {point['budget']:g}: {percent(point['test_accuracy'])} at {_cost(point['test_cost'])}"
    x, y = scale.x(point["test_cost"]), scale.y(100 * point["test_accuracy"])
    return f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="7"><title>{escape(told)}</title></circle>'


def _diamond(name: str, row: Row, scale: Scale) -> str:
    x, y = scale.x(row["cost"]), scale.y(100 * row["accuracy"])
    if not TOP <= y <= HEIGHT - BOTTOM:
        return ""
    name = name.removeprefix("static_")
    told = f"the whole network at {name}: {percent(row['accuracy'])} at {_cost(row['cost'])}"
    shape = f'<path class="diamond" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"><title>{escape(told)}</title></path>'
    return f'{shape}<text class="tick of" x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{escape(name)}</text>'


def _names(names: Sequence[tuple[float, str, str]]) -> Iterable[str]:
    """Names at the ends of lines, moved apart where they would overlap, each with a line to its own."""
    ends = spread([min(max(y, TOP), HEIGHT - BOTTOM) for y, _, _ in names], LINE)
    for (y, kind, text), place in zip(names, ends, strict=True):
        own = min(max(y, TOP), HEIGHT - BOTTOM)
        line = f'<line class="grid" x1="{WIDTH - RIGHT}" x2="{WIDTH - RIGHT + 8}" y1="{own:.1f}" y2="{place:.1f}"/>'
        label = f'<text x="{WIDTH - RIGHT + 10}" y="{place + 4:.1f}">{escape(text)}</text>'
        yield f'<g class="{kind or "plain"}">{line}{label}</g>'
