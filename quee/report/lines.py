"""A method's curve on test, for whatever draws it."""

from collections.abc import Iterable

from quee.report import Row

Point = tuple[float, float]
"""Cost and accuracy."""


def operating(curve: Iterable[Row], method: str) -> list[Row]:
    """The method's operating points on test by rising cost; under the first seed where there are several."""
    rows = [row for row in curve if row["split"] == "test" and row["method"] == method]
    first = min((row["seed"] for row in rows), default=0)
    return sorted((row for row in rows if row["seed"] == first), key=lambda row: row["cost"])


def line_of(curve: Iterable[Row], bands: Iterable[Row], method: str) -> list[Point]:
    """Its line: the mean over seeds at every cost where there are bands, and else its operating points."""
    rows = sorted((row for row in bands if row["method"] == method), key=lambda row: row["cost"])
    return [(row["cost"], row["accuracy"]) for row in rows or operating(curve, method)]
