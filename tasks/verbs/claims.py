"""What every experiment says of the paper's claims: the table in docs/claims.md, from the results alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quee.evaluation.formats import EARLIER
from quee.policies.names import OURS, REFERENCE, named
from quee.report import sentence as report
from quee.work.io import read_json, read_table
from quee.work.percentages import DASH, difference, figure

PLAN = OURS[0]
"""The paper's policy."""
EXITS, PRECISIONS = f"{PLAN}_exits_only_", f"{PLAN}_precisions_only"
"""The same policy kept to exits at one precision, and to precisions without exits."""


def table(named_results: list[tuple[str, Path, dict[str, Any]]]) -> str:
    """Markdown with a row per experiment, from its name, the folder of its stages and its metrics."""
    head = ["experiment", "over the best exits alone", "over precisions alone", f"over `{named('rival')[0]}`"]
    head += [f"over `{REFERENCE}`", "4. RMSE and `auc`", "5. ECE at K = 1; least, at K", "6. a gate's cost %"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, folder, metrics in named_results:
        gains, correlation = gains_of(metrics), metrics.get("quality_rank_correlation")
        cells = [
            f"{name}{'' if _now(metrics) else '*'}",
            _least(gains),
            *(_cell(gains.get(f"gain.{PLAN}.{rival}")) for rival in (PRECISIONS, named("rival")[0], REFERENCE)),
            DASH if correlation is None else f"{correlation:+.2f}",
            _calibration(folder / "targets/calibration.parquet"),
            _overhead(folder / "features/tree.json"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _now(metrics: dict[str, Any]) -> bool:
    """Whether gains are of `auc` as it is defined now."""
    return EARLIER not in metrics


def gains_of(metrics: dict[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Gains of results in the current format or an earlier one."""
    return report.gains_of(metrics if _now(metrics) else metrics[EARLIER])


def _least(gains: Mapping[str, Mapping[str, float]]) -> str:
    """The gain over the exits at one precision that come nearest."""
    prefix = f"gain.{PLAN}.{EXITS}"
    own = {key.removeprefix(prefix): found for key, found in gains.items() if key.startswith(prefix)}
    if not own:
        return DASH
    nearest = min(own, key=lambda precision: own[precision]["mean"])
    return f"{_cell(own[nearest])} at {nearest}"


def _cell(found: Mapping[str, float] | None) -> str:
    return DASH if found is None else difference(found)


def _calibration(file: Path) -> str:
    """Mean calibration error over nodes on validation: of one cluster, and the least with its number of clusters."""
    rows = [row for row in read_table(file).to_pylist() if row["split"] == "validation"]
    errors: dict[int, list[float]] = {}
    for row in rows:
        errors.setdefault(row["clusters"], []).append(row["ece"])
    mean = {clusters: sum(found) / len(found) for clusters, found in errors.items()}
    if not mean:
        return DASH
    best = min(mean, key=lambda clusters: (mean[clusters], clusters))
    one = f"{mean[1]:.4f}; " if 1 in mean else ""
    return f"{one}{mean[best]:.4f}, {best}"


def _overhead(file: Path) -> str:
    """The dearest gate's head and predictor, in % of the static w8a8 network."""
    nodes = read_json(file)["nodes"]
    last = max(node["gate"] for node in nodes)
    costs = [node["head_cost"] + node["predictor_cost"] for node in nodes if node["gate"] < last]
    return figure(max(costs)) if costs else DASH
