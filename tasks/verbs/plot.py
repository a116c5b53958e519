"""Accuracy over cost in characters, for terminals."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from quee.errors import UsageError
from quee.report.ends import spread
from quee.report.lines import DEEP, Point, line_of, round_costs
from quee.work.io import read_table
from tasks.verbs.results import Results
from tasks.work.published import FOLDER

HEIGHT = 18
MARKS = "●○◆◇■□▲△"


def plotted(root: Path, results: Results, methods: Sequence[str], width: int = 80, reference: bool = False) -> str:
    """The curves of the methods on test, names at the ends of the lines. Raises UsageError where no curve is kept."""
    folder = root / (FOLDER if reference else "artifacts") / results.experiment / "evaluate"
    file = folder / "curve.parquet"
    if not file.is_file():
        raise UsageError(f"there is no {file.relative_to(root)} to plot; `quee run {results.experiment}` makes it")
    bands = read_table(folder / "bands.parquet").to_pylist() if (folder / "bands.parquet").is_file() else []
    curve = read_table(file).to_pylist()
    lines = {method: line for method in methods if (line := line_of(curve, bands, method))}
    return drawn(lines, results.metrics.get("fp32_accuracy"), results.measure.said("accuracy on test, %"), width)


def drawn(lines: dict[str, list[Point]], full: float | None, name: str, width: int) -> str:
    """The plot as text of at most `width` characters a line."""
    shown = {method: [point for point in line if point[0] <= 1.0 + 1e-9] or line[:1] for method, line in lines.items()}
    points = [point for line in shown.values() for point in line]
    if not points:
        return "nothing to plot"
    labels = max(len(method) for method in lines) + 3
    columns = max(width - labels - 7, 20)
    low_cost, high_cost = min(cost for cost, _ in points), max(1.0, *(cost for cost, _ in points))
    heights = [100 * accuracy for _, accuracy in points] + ([100 * full] if full is not None else [])
    top = max(heights)
    bottom = max(min(heights), top - DEEP)
    bottom = bottom if top - bottom > 0.1 else top - 0.1

    def column(cost: float) -> int:
        share = math.log(cost / low_cost) / math.log(high_cost / low_cost) if high_cost > low_cost else 0.0
        return round(share * (columns - 1))

    def row(accuracy: float) -> int:
        return round((top - 100 * accuracy) / (top - bottom) * (HEIGHT - 1))

    grid = [[" "] * columns for _ in range(HEIGHT)]
    if full is not None and row(full) < HEIGHT:
        grid[row(full)] = ["·"] * columns
    for mark, line in zip(MARKS * len(shown), reversed(shown.values()), strict=False):
        for at, accuracy in _filled([(column(cost), accuracy) for cost, accuracy in line]):
            if row(accuracy) < HEIGHT:
                grid[row(accuracy)][at] = mark
    marks = dict(zip(reversed(shown), MARKS * len(shown), strict=False))
    ends = {method: min(row(line[-1][1]), HEIGHT - 1) for method, line in shown.items()}
    if full is not None:
        ends["float"] = min(row(full), HEIGHT - 1)
    places = [min(max(round(place), 0), HEIGHT - 1) for place in spread(list(ends.values()), 1.0)]
    names = [""] * HEIGHT
    for method, place in sorted(zip(ends, places, strict=True), key=lambda item: item[1]):
        free = [at for at in range(HEIGHT) if not names[at]]
        if free:
            names[min(free, key=lambda k: abs(k - place))] = f" {marks.get(method, '·')} {method}"
    out = [name]
    for number, cells in enumerate(grid):
        value = (
            f"{top - number * (top - bottom) / (HEIGHT - 1):5.1f} "
            if number % 3 == 0 or number == HEIGHT - 1
            else " " * 6
        )
        out.append((value + "".join(cells) + names[number]).rstrip())
    ticks, last = [" "] * (columns + 6), -1
    for cost in round_costs(low_cost, high_cost):
        text, at = f"{cost:g}", 6 + column(cost)
        if last < at <= columns + 6 - len(text):
            ticks[at : at + len(text)] = text
            last = at + len(text)
    return "\n".join([*out, "".join(ticks).rstrip(), "      cost (static w8a8 = 1)"])


def _filled(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A point in every column between the first and the last, on straight lines between the given ones."""
    found = dict(points[:1])
    for (left, before), (right, after) in itertools.pairwise(points):
        for at in range(left, right + 1):
            found[at] = after if right == left else before + (after - before) * (at - left) / (right - left)
    return sorted(found.items())
