"""The ablation table: differences to the base, paired, with intervals that hold for all rows at once.

A difference is uncertain for two reasons: the choice of test samples, and the repetition (division, seed) of the learned
parts. If all repetitions share one test split, samples are bootstrapped (paired: the same draws for every row), and
repetitions are drawn from a normal distribution with the variance between them. Few repetitions estimate that variance
poorly, so a row's variance is raised to the table's mean. If test splits are divided anew, repetitions overlap, and
their variance is corrected by Nadeau and Bengio (2003): s² (1 / R + n_test / n_fitted). Simultaneous intervals use
max-|t|: the largest standardised deviation over all rows, in the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, t

from quee.evaluation.ablation.fit import Outcome
from quee.evaluation.ablation.grid import BASE, Point
from quee.intervals import resamples

CHUNK = 250
"""Bootstrap replicates drawn at a time."""
POWER = 0.8
Row = dict[str, Any]


@dataclass(frozen=True)
class Intervals:
    """Mean and standard error of columns C, with 95 % limits for each alone and for all at once."""

    mean: np.ndarray
    error: np.ndarray
    single: np.ndarray
    """(C,) half-width of the interval for each column alone."""
    joint: np.ndarray
    """(C,) half-width of the interval for all columns at once."""
    critical: float
    """The 95 % quantile of max-|t|."""


def fixed_test_intervals(
    differences: np.ndarray, repeats: int, seed: int, groups: np.ndarray | None = None, level: float = 0.95
) -> Intervals:
    """Differences (R, S, C) of repetitions, the same test samples in each, in groups (S,), and columns compared at once."""
    repetitions, samples, columns = differences.shape
    own = differences.mean(axis=1, dtype=np.float64)  # (R, C)
    mean, each = own.mean(axis=0), differences.mean(axis=0, dtype=np.float64)
    spread = own.std(axis=0, ddof=1)
    pooled = np.sqrt((spread**2).mean())
    scale = np.where(spread > 0, np.maximum(spread, pooled) / np.maximum(spread, 1e-300), 0.0)
    directions = (own - mean) * scale / np.sqrt(repetitions * (repetitions - 1))  # (R, C)
    random, drawn = np.random.default_rng([seed, 1]), []
    for start in range(0, repeats, CHUNK):
        count = min(CHUNK, repeats - start)
        shift = resamples(samples, count, seed + start, groups) @ each - mean
        drawn.append(shift + random.normal(size=(count, repetitions)) @ directions)
    moved = np.concatenate(drawn) if drawn else np.zeros((0, columns))
    error = np.maximum(moved.std(axis=0), 1e-12)
    critical = float(np.quantile(np.abs(moved / error).max(axis=1), level))
    return Intervals(mean, error, norm.ppf((1 + level) / 2) * error, critical * error, critical)


def divided_test_intervals(
    differences: np.ndarray, ratio: float, repeats: int, seed: int, level: float = 0.95
) -> Intervals:
    """Mean differences (R, C) of repetitions with test splits of their own; `ratio` is n_test / n_fitted."""
    repetitions = len(differences)
    mean, spread = differences.mean(axis=0), np.maximum(differences.std(axis=0, ddof=1), 1e-12)
    error = spread * np.sqrt(1 / repetitions + ratio)
    random, free = np.random.default_rng([seed, 2]), repetitions - 1
    directions = (differences - mean) / (spread * np.sqrt(free))
    drawn = random.normal(size=(repeats, repetitions)) @ directions
    drawn /= np.sqrt(random.chisquare(free, size=(repeats, 1)) / free)
    critical = float(np.quantile(np.abs(drawn).max(axis=1), level))
    return Intervals(mean, error, t.ppf((1 + level) / 2, free) * error, critical * error, critical)


def compare(
    found: Sequence[Sequence[Outcome]],
    ratio: float | None,
    repeats: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> tuple[Intervals, Intervals]:
    """Gains in accuracy of all points over the first: of `auc` (P - 1 columns), and at every budget, with budgets
    varying fastest. `ratio` is n_test / n_fitted where repetitions have test splits of their own; `groups` (S,) are those of
    the test samples."""
    base, others = found[0], found[1:]
    if ratio is not None:  # test splits of groups differ in size
        own, at = (
            np.stack([_gains(name, base, others, r).mean(axis=0, dtype=np.float64) for r in range(len(base))])
            for name in ("area", "errors")
        )
        return (
            divided_test_intervals(own, ratio, repeats, seed),
            divided_test_intervals(at, ratio, repeats, seed),
        )
    area, budgets = (np.stack([_gains(name, base, others, r) for r in range(len(base))]) for name in ("area", "errors"))
    return fixed_test_intervals(area, repeats, seed, groups), fixed_test_intervals(budgets, repeats, seed, groups)


def _gains(name: str, base: Sequence[Outcome], others: Sequence[Sequence[Outcome]], repetition: int) -> np.ndarray:
    """Errors (S, C) that the other points have less than the base in a repetition; columns of a point stand together."""
    first = getattr(base[repetition], name)
    return np.concatenate([(first - getattr(row[repetition], name)).reshape(len(first), -1) for row in others], axis=1)


def repetition_rows(points: Sequence[Point], found: Sequence[Sequence[Outcome]]) -> list[Row]:
    """One row per point and repetition, with its results."""
    names = sorted({name for row in found for outcome in row for name in outcome.facts})
    return [
        {"axis": point.axis, "point": point.name, "seed": seed, **{n: outcome.facts.get(n) for n in names}}
        for point, row in zip(points, found, strict=True)
        for seed, outcome in enumerate(row)
    ]


def difference_rows(
    points: Sequence[Point], budgets: Sequence[float], area: Intervals, at_budgets: Intervals
) -> list[Row]:
    """One row per point and measure, `auc` or `accuracy@BUDGET`: gain over the base with its limits."""
    rows = []
    measures = [("auc", area, 1, 0)]
    measures += [(f"accuracy@{b:g}", at_budgets, len(budgets), i) for i, b in enumerate(budgets)]
    for index, point in enumerate(points[1:]):
        for name, intervals, stride, offset in measures:
            at = index * stride + offset
            mean, single, joint = (float(v[at]) for v in (intervals.mean, intervals.single, intervals.joint))
            rows.append(
                {
                    "axis": point.axis,
                    "error": float(intervals.error[at]),
                    "high": mean + single,
                    "joint_high": mean + joint,
                    "joint_low": mean - joint,
                    "low": mean - single,
                    "mean": mean,
                    "measure": name,
                    "point": point.name,
                }
            )
    return rows


def summary(
    points: Sequence[Point], found: Sequence[Sequence[Outcome]], area: Intervals, differences: Sequence[Row]
) -> dict[str, Any]:
    """`metrics.json`: every point by `axis/name`, and the size of the difference that the table could detect."""
    gains = {(row["axis"], row["point"]): row for row in differences if row["measure"] == "auc"}
    table: dict[str, dict[str, float]] = {}
    for point, row in zip(points, found, strict=True):
        names = sorted({name for outcome in row for name in outcome.facts})
        entry = {name: float(np.mean([o.facts[name] for o in row if name in o.facts])) for name in names}
        if point.axis != BASE:
            gain = gains[point.axis, point.name]
            entry |= {f"gain.{key}": gain[key] for key in ("mean", "low", "high", "joint_low", "joint_high")}
        table[point.title] = entry
    detectable = (area.critical + norm.ppf(POWER)) * area.error
    return {
        "critical": area.critical,
        "detectable": {
            "largest": float(detectable.max()),
            "median": float(np.median(detectable)),
            "power": POWER,
            "smallest": float(detectable.min()),
        },
        "points": table,
        "repetitions": len(found[0]),
        "rows": len(points) - 1,
        "test_samples": len(found[0][0].area),
    }
