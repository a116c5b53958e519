"""A method's curve on test, for whatever draws it."""

from collections.abc import Iterable

from quee.report import Row

Point = tuple[float, float]
"""Cost and accuracy."""
DEEP = 8.0
"""Points below the best accuracy that a drawing shows at most."""


def operating(curve: Iterable[Row], method: str) -> list[Row]:
    """The method's operating points on test by rising cost; under the first seed where there are several."""
    rows = [row for row in curve if row["split"] == "test" and row["method"] == method]
    first = min((row["seed"] for row in rows), default=0)
    return sorted((row for row in rows if row["seed"] == first), key=lambda row: row["cost"])


def line_of(curve: Iterable[Row], bands: Iterable[Row], method: str) -> list[Point]:
    """Its line: the mean over seeds at every cost where there are bands, and else its operating points."""
    rows = sorted((row for row in bands if row["method"] == method), key=lambda row: row["cost"])
    return [(row["cost"], row["accuracy"]) for row in rows or operating(curve, method)]


def round_costs(low: float, high: float) -> list[float]:
    """Costs from `low` to `high` that an axis names: 1, 2 and 5 times powers of ten up to 5."""
    costs = (digit * 10.0**power for power in range(-4, 1) for digit in (1, 2, 5))
    return [cost for cost in costs if low <= cost <= high]
