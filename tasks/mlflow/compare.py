"""Two results side by side: experiments here, at a git revision or published, or MLflow runs."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quee.errors import UsageError
from tasks.dvc.lock import ExperimentResult, default_experiments, is_revision, read_lock, read_out, stage_names
from tasks.mlflow.memory import Memory
from tasks.mlflow.values import METRICS, experiment_metrics, of_run, settings_of
from tasks.work.published import FOLDER, evaluated, published, unpack

STEPPED = ("curve/", "history/")
"""Prefixes of metrics with a value per step in earlier runs; these are not compared."""


@dataclass(frozen=True)
class Side:
    """One of two results that are compared."""

    label: str
    settings: dict[str, str]
    metrics: dict[str, float]
    has_defaults: bool = True
    """Whether the settings include defaults."""
    result: ExperimentResult | None = None
    """The experiment's entries in `dvc.lock`; None for the run of a stage."""
    here: bool = False
    """Whether `artifacts/` holds the result."""


def side(root: Path, name: str, other: str) -> Side:
    """Find an experiment, a run id, a revision or `REVISION:EXPERIMENT`; raises UsageError for any other name.

    For a revision alone, the experiment is the one of the other side, or the first in params.yaml. An experiment without
    results here is taken from the published ones.
    """
    here = read_lock(root)
    if name in here and (found := _of_lock(root, name, here[name], here=name in evaluated(root / "artifacts"))).metrics:
        return found
    if name in published(root):
        unpack(root)
        text = (root / FOLDER / name / "dvc.lock").read_text(encoding="utf-8")
        result = ExperimentResult.read(name, text, stage_names(root))
        return _of_lock(root, name, result, here=False)
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _of_run(root, name)
    revision, _, experiment = name.partition(":")
    if not is_revision(root, revision):
        valid = ", ".join(evaluated(root / "artifacts")) or "none here"
        valid += f"; published: {', '.join(published(root))}" if published(root) else ""
        raise UsageError(
            f"{name!r} is no experiment with results ({valid}), MLflow run id, or git revision; `quee run NAME` makes results"
        )
    if not experiment:
        experiment = (
            other.rpartition(":")[2] if other.rpartition(":")[2] in here else next(iter(default_experiments(root)), "")
        )
    then = read_lock(root, revision)
    if experiment not in then:
        raise UsageError(f"no results of {experiment!r} at {revision}; there are: {', '.join(then) or 'none'}")
    found = _of_lock(root, f"{revision}:{experiment}", then[experiment], here=False)
    if not found.metrics:
        raise UsageError(
            f"the results of {experiment!r} at {revision} are not on this machine; `dvc pull` may bring them"
        )
    return found


def _of_lock(root: Path, label: str, result: ExperimentResult, here: bool) -> Side:
    def read(stage: str) -> Any:
        text = read_out(root, result.stages[stage], "metrics.json", here)
        return None if text is None else json.loads(text)

    metrics = experiment_metrics(read, list(result.stages))
    return Side(label, settings_of(result.settings), metrics, result.has_defaults, result, here)


def _of_run(root: Path, run_id: str) -> Side:
    memory = Memory(root)
    run = memory.run(run_id)
    metrics = {str(row["metric"]): float(row["value"]) for row in memory.table(run, METRICS)}
    if not metrics:  # logged by an earlier version
        metrics = of_run({name: value for name, value in run.data.metrics.items() if not name.startswith(STEPPED)})
    result = None
    if run.data.tags.get("quee.kind") == "experiment" and (text := memory.artifact(run, "dvc.lock")) is not None:
        result = ExperimentResult.read(memory.facts(run)["quee.experiment"], text.decode(), stage_names(root))
    return Side(run.info.run_name or run_id, dict(run.data.params), metrics, result=result)


def settings_differences(a: Side, b: Side) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, without those that are unknown because a side has no recorded defaults."""
    found = differences(a.settings, b.settings)
    return {
        name: pair for name, pair in found.items() if all(side.has_defaults or name in side.settings for side in (a, b))
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By name, the two values that differ; None for a side without the name."""
    return {name: (a.get(name), b.get(name)) for name in sorted(a | b) if a.get(name) != b.get(name)}
