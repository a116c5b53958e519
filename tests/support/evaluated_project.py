"""A project with results of `evaluate` that DVC made and git records, and its verbs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

from quee.evaluation.formats import FORMAT
from quee.work.io import write_json, write_table
from tasks.verbs import tracking as tracking_cli

DVC_YAML = """
stages:
  evaluate:
    foreach: ${experiments}
    do:
      cmd: cp -r made artifacts/${key}/evaluate
      params:
      - experiments/${key}.yaml:
        - evaluate
      deps:
      - made
      outs:
      - artifacts/${key}/evaluate
"""


def write_evaluation(folder: Path, accuracy: float = 0.9, auc: float = 0.95, earlier: bool = False) -> None:
    """Results of stage `evaluate`; those of format 1 where `earlier`."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [
        {"method": m, "budget": b, "test_cost": b * 1.02, "test_accuracy": accuracy, "budget_met": b > 0.1, "seed": 0}
        for m in ("static_hull", "static_w8a8", "quee_plan", "oracle")
        for b in (0.05, 0.2, 1.0)
    ]
    write_table(folder / "operating_points.parquet", pa.Table.from_pylist(points))
    methods = {"quee_plan": {"auc": auc}, "static_hull": {"auc": 0.9}}
    metrics: dict[str, Any] = {"fp32_accuracy": 0.975, "methods": methods, "oracle_gap_closed": {"quee_plan": 0.5}}
    write_json(folder / "metrics.json", {"experiment": "digits", **metrics, **({} if earlier else {"format": FORMAT})})


def evaluated_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository whose one commit has a result that DVC made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.yaml").write_text("evaluate: {points: 120}\n")
    (tmp_path / "params.yaml").write_text("experiments: {digits: {data: data/digits}}\n")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / ".gitignore").write_text("/artifacts/\n/made/\n")
    (tmp_path / "artifacts" / "digits").mkdir(parents=True)
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    repro(tmp_path)
    run("git", "add", "-A")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "result")
    return tmp_path


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def repro(root: Path, **values: float) -> None:
    write_evaluation(root / "made", **values)
    run(sys.executable, "-m", "dvc", "repro", "-q")


def call(*arguments: str) -> Any:
    app = typer.Typer()
    for verb in (tracking_cli.track, tracking_cli.results, tracking_cli.compare, tracking_cli.ui):
        app.command()(verb)
    return CliRunner().invoke(app, list(arguments))
