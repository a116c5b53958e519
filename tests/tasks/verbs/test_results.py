"""Results in tables, and compared with a git revision through a real DVC cache."""

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from evaluated_project import call, copied, repro, write_evaluation
from rich.console import Console

from quee.errors import UsageError
from quee.work.io import write_table
from tasks.verbs.results import against, changes_between, chosen_methods, load_results, results_table
from tasks.work.published import FOLDER


@pytest.fixture
def project(evaluated_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(evaluated_template, tmp_path, monkeypatch)


def shown(table: Any) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


def test_the_table_shows_accuracy_and_realised_cost_of_each_method_at_each_budget(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    results = load_results(tmp_path, "digits")
    text = shown(results_table(results, chosen_methods(results)))
    assert "quee_plan" in text and "90.0" in text and "0.2" in text and "fp32 97.50 %" in text
    assert "*0.051" in text  # a budget that cannot be met
    assert "static_w8a8" not in text
    assert "static_w8a8" in shown(results_table(results, chosen_methods(results, all_methods=True)))


def test_the_methods_asked_for_are_shown_alone_and_an_unknown_one_is_named(project: Path) -> None:
    text = call("results", "digits", "--method", "oracle").stdout
    assert "oracle" in text and "quee_plan" not in text.partition("float network")[0]
    error = call("results", "digits", "--method", "quee_plam").exception
    assert isinstance(
        error, UsageError
    ) and "unknown method with results 'quee_plam' (did you mean 'quee_plan'?)" in str(error)


def test_the_table_ends_with_the_sentence_of_what_is_deployed(project: Path) -> None:
    sentence = "7.5 points below the float network (97.5 %)"
    assert sentence not in " ".join(call("results", "digits").stdout.split()), "policy auto has no results here"
    (project / "experiments/digits.yaml").write_text(
        "prepare: {dataset: digits}\nbackbone: {name: vit_digits}\nbundle: {policy: plan}\n"
    )
    assert f"quee_plan is right on 90.0 % of the test images, {sentence}" in " ".join(
        call("results", "digits").stdout.split()
    )


def test_the_table_fits_eighty_columns(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts/digits/evaluate"
    write_evaluation(folder)
    budgets = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    point = {"method": "confidence_hull", "test_cost": 0.155, "test_accuracy": 1.0, "budget_met": False, "seed": 0}
    write_table(folder / "operating_points.parquet", pa.Table.from_pylist([{**point, "budget": b} for b in budgets]))
    behind = {f"{b:g}": {"best": "quee_plan", "high": 0.3, "low": 0.1, "mean": 0.2} for b in budgets}
    results = load_results(tmp_path, "digits")
    results.metrics.update(test_samples=359, behind_best={"confidence_hull": behind})
    console = Console(width=80, record=True, file=StringIO())
    console.print(results_table(results, chosen_methods(results)))
    text = console.export_text()
    assert text.count("↓100") == text.count("*0.15") == len(budgets)


@pytest.mark.parametrize("width", [30, 50, 80, 100])
def test_a_narrow_terminal_has_every_budget_below_the_others(tmp_path: Path, width: int) -> None:
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    results = load_results(tmp_path, "digits")
    console = Console(width=width, record=True, file=StringIO())
    console.print(results_table(results, ["quee_plan"], width))
    lines = console.export_text().splitlines()
    budgets = [name for line in lines if line.startswith("method") for name in line.split()[3:]]
    assert budgets == ["0.05", "0.2", "1"] and "…" not in "".join(lines)


def test_a_gain_is_that_over_fixed_precisions_of_the_re_divisions_where_there_are_some(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    results = load_results(tmp_path, "digits")
    results.metrics["methods"] |= {"quee_plan": {"auc": 0.95}, "static_hull": {"auc": 0.92}}
    assert "gain +3.00" in shown(results_table(results, ["quee_plan"]))
    results.metrics["resplits"] = {"auc.quee_plan": {"mean": 0.94}, "auc.static_hull": {"mean": 0.93}}
    text = " ".join(shown(results_table(results, ["quee_plan"])).split())
    assert "gain +1.00" in text and "over static_hull, mean of random re-divisions" in text


def test_methods_that_are_behind_the_best_of_a_column_beyond_doubt_are_marked(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    results = load_results(tmp_path, "digits")
    assert "↓" not in shown(
        results_table(results, chosen_methods(results))
    )  # a result from before the differences were kept
    behind = {"best": "oracle", "mean": 0.004, "high": 0.012}
    results.metrics.update(
        test_samples=359,
        behind_best={"quee_plan": {"0.2": {**behind, "low": 0.001}, "1": {**behind, "low": -0.003}}},
    )
    text = " ".join(shown(results_table(results, chosen_methods(results))).split())
    assert text.count("↓90.0") == 1 and "auc ↓" not in text
    assert "behind the best of its column, with 95 % confidence (359 test images); of quee_plan, those without" in text
    assert "Not marked, because published without these intervals: auc of digits." in text


def test_no_results_are_an_error_that_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.yaml").touch()
    with pytest.raises(UsageError, match="valid: none; run `quee run digits`$"):
        load_results(tmp_path, "digits")
    with pytest.raises(UsageError, match=r"with results in reference/"):
        load_results(tmp_path, "digits", reference=True)
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "digits.tar.xz").touch()
    with pytest.raises(UsageError, match="or see the published ones: `quee results --reference digits`"):
        load_results(tmp_path, "digits")


def test_only_what_was_evaluated_is_valid_and_only_what_exists_can_be_run(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    (tmp_path / "artifacts/begun/backbone").mkdir(parents=True)
    (tmp_path / "artifacts/begun/backbone/metrics.json").write_text("{}")
    with pytest.raises(UsageError, match="'nosuch'; valid: digits$"):
        load_results(tmp_path, "nosuch")


def test_a_project_without_results_says_which_command_evaluates(project: Path) -> None:
    write_evaluation(project / "artifacts/digits/evaluate")
    (project / "params.yaml").write_text("experiments: [digits, other]\n")
    shown = call("results")
    assert "quee_plan" in shown.stdout and "nothing was evaluated of other; `quee run other` does" in shown.stderr
    shutil.rmtree(project / "artifacts")
    assert call("results").stdout == "nothing was evaluated of digits, other; `quee run digits` does\n"
    (project / "params.yaml").write_text("experiments: []\n")
    assert call("results").stdout == "nothing was evaluated here; `quee run NAME` does\n"
    assert call("results", "--json").stdout == "{}\n"


def test_a_port_that_is_none_is_refused(project: Path) -> None:
    for port in ("0", "-1", "99999"):
        error = call("ui", "--port", port).exception
        assert isinstance(error, UsageError) and str(error) == f"port {port}: give 1 to 65535"


def test_published_results_are_shown_on_request(tmp_path: Path) -> None:
    write_evaluation(tmp_path / FOLDER / "digits/evaluate", accuracy=0.7)
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
    text = call("compare", "HEAD", "digits").stdout
    assert "evaluate.points" in text and "1 differing metric: --all" in text and "methods/quee_plan.auc" not in text
    assert "methods/quee_plan.auc" in call("compare", "HEAD", "digits", "--all").stdout


def test_an_auc_over_other_budgets_is_compared_with_nothing(project: Path) -> None:
    repro(project, auc=0.80, earlier=True)
    assert all(change.after is None for change in against(project, "HEAD", None)["digits"] if "auc" in change.metric)
    assert call("results", "--against", "HEAD").exit_code == 0
    found = json.loads(call("compare", "HEAD", "digits", "--json").stdout)
    assert found["metrics"]["methods/quee_plan.auc"] == [0.95, None]
    shown_now = json.loads(call("results", "--json").stdout)["digits"]["metrics"]
    assert "auc" not in shown_now["methods"]["quee_plan"], "its curve is not there to compute it from"


def test_comparing_something_unknown_says_what_is_valid(project: Path) -> None:
    error = call("compare", "digits", "nosuch").exception
    assert isinstance(error, UsageError) and "digits" in str(error)


def test_results_as_json_have_points_metrics_and_report(project: Path) -> None:
    found = json.loads(call("results", "--json").stdout)["digits"]
    assert found["metrics"]["methods"]["quee_plan"]["auc"] == 0.95
    assert {point["budget"] for point in found["points"]} == {0.05, 0.2, 1.0}
    assert found["report"] is None
