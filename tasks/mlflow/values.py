"""Settings, metrics and histories of a result as flat names with numbers, in MLflow's form."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from quee.measure import KEY, measure_of

if TYPE_CHECKING:
    import pyarrow as pa

METRICS, FEW = "metrics", 100
"""The table with all numbers of a result, and how many numbers a stage may have to show them as metrics, too."""

HEADLINES = ("fp32_accuracy", "methods", "oracle_gap_closed")
"""Numbers of `evaluate` that an experiment has under their own names; those of other stages are STAGE/…"""
EVALUATED = "evaluate/format"
"""The number of an experiment that says what its numbers by method mean; results from before format 2 have none."""

_BY_AUC = re.compile(r"methods/.*\.auc(_by_seed\.\d+)?$|oracle_gap_closed/")

STEPS = ("images", "epoch", "iteration", "step", "round")
"""Columns of a history that count steps; the first one that a history has is used."""

KEYS = ("gate", "node", "precision", "seed", "fold")
"""Columns of a history that, together with all columns of strings, separate its series."""


class Point(NamedTuple):
    """One value of a metric that has many."""

    name: str
    step: int
    value: float


def settings_of(blocks: dict[str, Any]) -> dict[str, str]:
    """Recorded blocks of an experiment as `block.key` to text; no default is added."""
    return {name: _text(value) for block, value in sorted(blocks.items()) for name, value in leaves(value, block)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in nested mappings; a list is one value."""
    if isinstance(value, dict) and value:
        for key in sorted(value, key=str):
            yield from leaves(value[key], f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def numbers(metrics: Any) -> dict[str, float]:
    """The finite numbers of a metrics.json by dotted name; lists by position."""
    found: dict[str, float] = {}
    for name, value in leaves(metrics):
        entries = (
            [(f"{name}.{index}", item) for index, item in enumerate(value)]
            if isinstance(value, list)
            else [(name, value)]
        )
        found |= {key: float(item) for key, item in entries if isinstance(item, int | float) and math.isfinite(item)}
    return found


def stage_numbers(stage: str, text: str | bytes) -> dict[str, float]:
    """The numbers of a stage's metrics.json in terms of the current format."""
    from quee.evaluation.formats import comparable

    metrics = json.loads(text)
    return numbers(comparable(metrics) if stage == "evaluate" else metrics)


def sectioned(name: str) -> str:
    """A dotted name with a slash for its first dot, because MLflow groups charts by it: `methods/quee_plan.auc`."""
    return _plain(name).replace(".", "/", 1)


def _plain(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)


def stage_metrics(metrics: Any) -> dict[str, float]:
    """The numbers of one stage, by names that say whether they are of accuracy or agreement."""
    said = measure_of(metrics).said
    return {sectioned(said(name)): value for name, value in numbers(metrics).items()}


def experiment_metrics(read: Callable[[str], Any], stages: list[str]) -> dict[str, float]:
    """The numbers of an experiment; `read` gives a stage's metrics.json, or None."""
    from quee.evaluation.formats import comparable

    found: dict[str, float] = {}
    for stage in stages:
        metrics = read(stage)
        if metrics is None:
            continue
        said = measure_of(metrics).said
        if stage == "evaluate":
            metrics = comparable(metrics)
            found |= stage_metrics({key: metrics[key] for key in (*HEADLINES, KEY) if key in metrics})
            found |= {EVALUATED: float(metrics["format"])} if "format" in metrics else {}
        else:
            found |= {f"{stage}/{said(name)}": value for name, value in numbers(metrics).items()}
    return {_plain(name): value for name, value in found.items()}


def of_run(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of an earlier run of an experiment, without those that have another meaning in the current format."""
    if EVALUATED in metrics:
        return metrics
    return {name: value for name, value in metrics.items() if not _BY_AUC.match(name)}


def history(table: "pa.Table") -> list[Point]:
    """A history's numeric columns as `history/[KEY_VALUE.]COLUMN` over its counting column, or over row numbers."""
    import pyarrow.types as kinds

    rows = table.to_pylist()
    step = next((name for name in STEPS if name in table.column_names), None)
    keys = [f.name for f in table.schema if f.name in KEYS or kinds.is_string(f.type) or kinds.is_dictionary(f.type)]
    values = [name for name in table.column_names if name != step and name not in keys]
    points: list[Point] = []
    for index, row in enumerate(rows):
        series = "".join(f"{key}_{row[key]}." for key in keys if row[key] is not None)
        at = index if step is None or row[step] is None else int(row[step])
        for name in values:
            if isinstance(row[name], int | float) and math.isfinite(row[name]):
                points.append(Point(_plain(f"history/{series}{name}"), at, float(row[name])))
    return points


def of_first_seed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first seed, and those of methods that no seed varies."""
    first = min((row["seed"] for row in rows if row.get("seed") is not None), default=None)
    return [row for row in rows if row.get("seed") in (first, None)]
