"""What a model version says of its bundle: figures on validation as tags, and a card. Part of tasks/tracking.py."""

import json
from pathlib import Path
from typing import Any

from tasks.dvc.lock import StageResult, dvc_digest

VALIDATION = {
    name: f"quee.validation.{name}"
    for name in ("budget", "accuracy", "low", "high", "cost", "samples", "data", "method")
}
"""Tags of a version: what it does on validation at its experiment's budget; `data` is the digest of the splits."""

DESCRIPTION = 5000
"""Characters that the registry keeps of a model card."""

BESIDE = ("static_hull", "confidence_hull")
"""Baselines in the card's table of budgets."""


def validation_tags(root: Path, bundle: StageResult) -> dict[str, str]:
    """The figures on validation; none where what evaluated the bundle is no longer here."""
    points, described = _points(root, bundle), _json(root / bundle.folder / "bundle.json")
    method, budget = _method(described), described.get("budget")
    point = next((p for p in points if (p["method"], p["budget"]) == (method, budget)), None)
    needed = ("validation_accuracy", "validation_cost", "accuracy_low", "accuracy_high")
    if point is None or any(point.get(name) is None for name in needed):
        return {}
    dataset = _json(root / "artifacts" / bundle.experiment / "prepare" / "dataset.json")
    figures = {
        "budget": f"{budget:g}",
        "method": method,
        "accuracy": repr(point["validation_accuracy"]),
        "low": repr(point["accuracy_low"]),
        "high": repr(point["accuracy_high"]),
        "cost": repr(point["validation_cost"]),
        "samples": str(dataset.get("splits", {}).get("validation", "not known")),
        "data": bundle.deps.get(f"artifacts/{bundle.experiment}/prepare", "not known"),
    }
    return {VALIDATION[name]: value for name, value in figures.items()}


def model_card(root: Path, bundle: StageResult) -> str:
    """Data, method, curve, budgets and limits of a bundle, as far as the registry takes them (Markdown)."""
    folder = root / bundle.folder
    own = folder / "README.md"
    parts = [own.read_text(encoding="utf-8").strip()] if own.is_file() else [f"# quee-{bundle.experiment}"]
    dataset = _json(root / "artifacts" / bundle.experiment / "prepare" / "dataset.json")
    if dataset.get("splits"):
        splits = ", ".join(f"{name} {count:,}" for name, count in dataset["splits"].items())
        parts.append(f"## Data\n{dataset.get('dataset')}: {dataset.get('samples', 0):,} images; {splits}.")
    described = _json(folder / "bundle.json")
    parts.append(
        f"## Method\nQuEE: at each gate the policy `{_method(described)}` decides from error probabilities, predicted from "
        "the state, and cost in BitFLOPs whether to exit or how precisely to go on. Quantized after training; the network "
        "itself is not retrained."
    )
    if table := _budgets(root, bundle, _method(described)):
        parts.append(table)
    parts.append(
        "## Limits\nA budget holds on average over data like the validation data, not for every input, and not under "
        "shift. Intervals are for the mean on new data of the same kind. BitFLOPs are counted, not milliseconds."
    )
    return "\n\n".join(parts)[:DESCRIPTION]


def _budgets(root: Path, bundle: StageResult, method: str) -> str:
    points = _points(root, bundle)
    own = {p["budget"]: p for p in points if p["method"] == method}
    if not own:
        return ""
    others = [name for name in BESIDE if any(p["method"] == name for p in points)]
    rows = [f"| budget | cost | accuracy % | on validation % | {' | '.join(f'`{name}` %' for name in others)} |"]
    rows.append("|" + " --- |" * (4 + len(others)))
    for budget, point in sorted(own.items()):
        beside = [next((p for p in points if (p["method"], p["budget"]) == (name, budget)), {}) for name in others]
        cells = [
            f"{budget:g}{'' if point.get('budget_met', True) else ' (out of reach)'}",
            _figure(point.get("test_cost"), 1, 3),
        ]
        cells += [_figure(point.get("test_accuracy")), _interval(point)]
        cells += [_figure(p.get("test_accuracy")) for p in beside]
        rows.append(f"| {' | '.join(cells)} |")
    return "## Curve\nAccuracy on test at each budget (mean cost, static w8a8 = 1).\n\n" + "\n".join(rows)


def _interval(point: dict[str, Any]) -> str:
    if point.get("validation_accuracy") is None:
        return "–"
    ends = (_figure(point.get(f"accuracy_{end}")) for end in ("low", "high"))
    return f"{_figure(point['validation_accuracy'])} [{', '.join(ends)}]"


def _figure(value: float | None, scale: float = 100, digits: int = 2) -> str:
    return "–" if value is None else f"{scale * value:.{digits}f}"


def _points(root: Path, bundle: StageResult) -> list[dict[str, Any]]:
    """The operating points of the evaluation that the bundle was made after, of the first seed."""
    from quee.work.io import read_table

    folder = f"artifacts/{bundle.experiment}/evaluate"
    file = root / folder / "operating_points.parquet"
    if not file.is_file() or dvc_digest(root / folder) != bundle.deps.get(folder):
        return []
    points = read_table(file).to_pylist()
    first = min((p["seed"] for p in points if p.get("seed") is not None), default=None)
    return [point for point in points if point.get("seed") in (first, None)]


def _method(described: dict[str, Any]) -> str:
    return f"quee_{described.get('policy', 'plan')}"


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
