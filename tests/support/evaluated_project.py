"""A project with results of `evaluate` that DVC made and git records, and its verbs."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from shared import made_once
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


def make_template(folder: Path) -> None:
    (folder / "experiments").mkdir()
    (folder / "experiments" / "digits.yaml").write_text("evaluate: {points: 120}\n")
    (folder / "params.yaml").write_text("experiments: {digits: {data: data/digits}}\n")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / ".gitignore").write_text("/artifacts/\n/made/\n")
    (folder / "artifacts" / "digits").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        at_work_in(folder, monkeypatch)
        run("git", "init", "-q")
        run(sys.executable, "-m", "dvc", "init", "-q")
        repro(folder)
        run("git", "add", "-A")
        run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "result")


@pytest.fixture(scope="session")
def evaluated_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository whose one commit has a result that DVC made; tests do not change it."""
    return made_once(tmp_path_factory, "evaluated", make_template)


def copied(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template in a new folder, which becomes the current one."""
    shutil.copytree(template, folder, symlinks=True, dirs_exist_ok=True)
    at_work_in(folder, monkeypatch)
    return folder


def at_work_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


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
