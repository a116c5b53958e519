"""The few numbers of a result: their names, what is left out, the sentence and the table."""

import re
from dataclasses import replace
from typing import Any

import pytest
from example_results import METHODS, evaluation, example, method, summary

from tasks.mlflow.headlines import MOST, Figures

ALLOWED = re.compile(r"[/\w.\- :]+")
"""Names of metrics that MLflow takes."""


def figures(policy: str = "plan", **changed: Any) -> Figures:
    return Figures(evaluation(**changed), policy, 0.2, 5_000_000, {"fixture": {"ratio_64": 1.8}}, example().budgets)


def test_the_metrics_are_those_of_the_deployed_policy_in_words_that_mlflow_takes() -> None:
    found = figures().metrics()
    assert found["float accuracy"] == 0.97
    assert list(found)[:2] == ["accuracy of the default", "cost of the default"], "MLflow draws the first of two runs"
    assert found["accuracy of the default"] == found["accuracy at cost 0.2"] == 0.908
    assert found["cost of the default"] == 0.2
    assert found["cost at 1 point below float"] == 0.4
    assert found["images/s over static"] == 1.8
    assert found["bundle in MB"] == 5
    assert all(ALLOWED.fullmatch(name) for name in found)


def test_gains_are_those_of_the_report_over_re_divisions_where_there_are_some() -> None:
    found, report = figures().metrics(), summary(example()).gain("static_hull")
    assert report is not None
    assert [found[f"gain over static{end}"] for end in ("", " at least", " at most")] == [
        report[side] for side in ("mean", "low", "high")
    ]
    assert figures(resplits=None).metrics()["gain over static"] == 0.004


def test_what_is_not_known_is_left_out() -> None:
    methods = {"quee_plan": method("quee_plan", one=None), "static_hull": method("static_hull")}
    bare = Figures(evaluation(fp32_accuracy=None, methods=methods, gains={}, resplits=None), "plan", 0.3)
    found = bare.metrics()
    assert not {"float accuracy", "accuracy of the default", "cost at 0.5 points below float", "auc at cost 0.4"} & set(
        found
    )
    assert not [name for name in found if name.startswith("gain")]
    assert bare.method == "quee_plan"
    assert bare.untold


def test_a_result_without_an_evaluation_has_no_numbers() -> None:
    bare = Figures({}, "auto", 0.2)
    assert (bare.metrics(), bare.curves([]), bare.sentence(), bare.table()) == ({}, [], "", [])


@pytest.mark.parametrize("policy", ["gone", "auto"])
def test_a_policy_that_was_not_evaluated_gives_way_to_one_that_was(policy: str) -> None:
    assert figures(policy).method == "quee_plan"


def test_metrics_and_curves_together_stay_within_the_most() -> None:
    bands = [{"method": name, "cost": 0.2, "accuracy": 0.9} for name in METHODS]
    points = figures().curves(bands)
    names = {point.name for point in points}
    assert len(names) + len(figures().metrics()) <= MOST
    assert {"curve/quee_plan", "curve/static_hull", "curve/confidence_hull", "curve/oracle"} <= names
    assert {point.step for point in points} == {200}


@pytest.mark.parametrize("one", [0.4, None])
def test_the_sentence_is_the_report_s(one: float | None) -> None:
    methods = {"quee_plan": method("quee_plan", one=one)}
    found = figures(methods=methods)
    assert found.sentence() == replace(summary(example()), metrics=evaluation(methods=methods)).sentence(True) != ""


def test_without_labels_everything_speaks_of_agreement() -> None:
    found = figures(measure="agreement")
    assert "accuracy" not in f"{found.sentence()} {list(found.metrics())} {found.table()}"
    assert found.metrics()["agreement of the default"] == 0.908


def test_the_table_has_a_row_per_main_method_the_deployed_one_first() -> None:
    rows = figures().table()
    assert rows[0]["method"] == "quee_plan (deployed)"
    assert rows[-1]["method"] == "oracle (bound)"
    (static,) = [row for row in rows if row["method"] == "static_hull"]
    assert static["gain over it"] == "+1.50 [+1.00, +2.00]"
    assert "accuracy at cost 0.4" not in static, "no method was evaluated there"
