"""Results as people read them, and held against a git revision through a real DVC cache."""

import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from quee.errors import UsageError
from quee.io import write_json, write_table
from tasks import tracking_cli
from tasks.results import against, changes_between, load_results, results_table

DVC_YAML = """
stages:
  evaluate:
    matrix:
      experiment: ${experiments}
    cmd: cp -r made artifacts/${item.experiment}/evaluate
    params:
    - experiments/${item.experiment}.yaml:
      - evaluate
    deps:
    - made
    outs:
    - artifacts/${item.experiment}/evaluate
"""


def write_evaluation(folder: Path, accuracy: float = 0.9, auc: float = 0.95) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    points = [
        {"method": m, "budget": b, "test_cost": b * 1.02, "test_accuracy": accuracy, "budget_met": b > 0.1, "seed": 0}
        for m in ("static_hull", "static_w8a8", "quee_plan", "oracle")
        for b in (0.05, 0.2, 1.0)
    ]
    write_table(folder / "operating_points.parquet", pa.Table.from_pylist(points))
    methods = {"quee_plan": {"auc": auc}, "static_hull": {"auc": 0.9}}
    metrics: dict[str, Any] = {"fp32_accuracy": 0.975, "methods": methods, "oracle_gap_closed": {"quee_plan": 0.5}}
    write_json(folder / "metrics.json", {"experiment": "digits", **metrics})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository whose one commit has a result that DVC made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.yaml").write_text("evaluate: {points: 120}\n")
    (tmp_path / "params.yaml").write_text("experiments: [digits]\n")
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


def shown(table: Any) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


def call(*arguments: str) -> Any:
    app = typer.Typer()
    for verb in (tracking_cli.track, tracking_cli.results, tracking_cli.compare, tracking_cli.ui):
        app.command()(verb)
    return CliRunner().invoke(app, list(arguments))


def test_the_table_shows_accuracy_and_realised_cost_of_each_method_at_each_budget(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    results = load_results(tmp_path, "digits")
    text = shown(results_table(results))
    assert "quee_plan" in text and "90.0" in text and "0.2" in text and "fp32 97.50 %" in text
    assert "*0.051" in text  # a budget that cannot be met
    assert "static_w8a8" not in text
    assert "static_w8a8" in shown(results_table(results, all_methods=True))


def test_the_table_fits_eighty_columns(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts/digits/evaluate"
    write_evaluation(folder)
    budgets = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    point = {"method": "confidence_hull", "test_cost": 0.155, "test_accuracy": 1.0, "budget_met": False, "seed": 0}
    write_table(folder / "operating_points.parquet", pa.Table.from_pylist([{**point, "budget": b} for b in budgets]))
    console = Console(width=80, record=True, file=StringIO())
    console.print(results_table(load_results(tmp_path, "digits")))
    text = console.export_text()
    assert text.count("100.0") == text.count("*0.15") == len(budgets)


def test_no_results_are_an_error_that_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quee run digits"):
        load_results(tmp_path, "digits")
    with pytest.raises(UsageError, match=r"reference\.dvc"):
        load_results(tmp_path, "digits", reference=True)


def test_published_results_are_shown_on_request(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "reference/digits", accuracy=0.7)
    assert load_results(tmp_path, "digits", reference=True).points[0]["test_accuracy"] == 0.7


def test_an_untouched_result_agrees_with_its_revision(project: Path) -> None:
    changes = against(project, "HEAD", None)["digits"]
    assert {change.metric for change in changes} >= {"evaluate.fp32_accuracy", "evaluate.methods.quee_plan.auc"}
    assert all(change.before == change.after for change in changes)


def test_small_differences_are_tolerated_and_large_ones_end_with_status_1(project: Path) -> None:
    repro(project, auc=0.955)
    assert call("results", "--against", "HEAD").exit_code == 0
    repro(project, auc=0.80)
    outside = [change.metric for change in against(project, "HEAD", None)["digits"] if not change.within]
    assert outside == ["evaluate.methods.quee_plan.auc"]
    done = call("results", "--against", "HEAD", "--json")
    assert done.exit_code == 1
    assert [c["metric"] for c in json.loads(done.stdout)["digits"] if not c["within"]] == outside


def test_a_revision_whose_result_is_nowhere_is_an_error_that_says_so(project: Path) -> None:
    shutil.rmtree(project / ".dvc" / "cache")
    with pytest.raises(Exception, match="dvc fetch"):
        against(project, "HEAD", None)
    with pytest.raises(UsageError, match="unknown git revision 'nosuch'"):
        against(project, "nosuch", None)


def test_counts_must_agree_exactly_and_accuracies_within_two_points() -> None:
    before = {"backbone.macs": 1e6, "evaluate.methods.x.auc": 0.90, "evaluate.gone": 1.0}
    after = {"backbone.macs": 1e6 + 1, "evaluate.methods.x.auc": 0.915}
    judged = {change.metric: change.within for change in changes_between(before, after)}
    assert judged == {"backbone.macs": False, "evaluate.methods.x.auc": True, "evaluate.gone": True}


def test_comparing_with_a_revision_shows_the_settings_and_metrics_that_differ(project: Path) -> None:
    (project / "experiments" / "digits.yaml").write_text("evaluate: {points: 150}\n")
    repro(project, auc=0.97)
    done = call("compare", "HEAD", "digits", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["settings"] == {"evaluate.points": ["120", "150"]}
    assert found["metrics"] == {"methods/quee_plan.auc": [0.95, 0.97]}
    assert "evaluate.points" in call("compare", "HEAD", "digits").stdout


def test_comparing_something_unknown_says_what_is_valid(project: Path) -> None:
    error = call("compare", "digits", "nosuch").exception
    assert isinstance(error, UsageError) and "digits" in str(error)


def test_results_as_json_have_points_metrics_and_report(project: Path) -> None:
    found = json.loads(call("results", "--json").stdout)["digits"]
    assert found["metrics"]["methods"]["quee_plan"]["auc"] == 0.95
    assert {point["budget"] for point in found["points"]} == {0.05, 0.2, 1.0}
    assert found["report"] is None
