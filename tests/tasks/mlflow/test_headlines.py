"""The few numbers of a result: their names, what is left out, the sentence and the table."""

import re

import pytest
from evaluated import evaluation, method

from quee.policies.names import MAIN
from tasks.mlflow.headlines import MOST, Figures

ALLOWED = re.compile(r"[/\w.\- :]+")
"""Names of metrics that MLflow takes."""


def test_the_metrics_are_those_of_the_deployed_policy_in_words_that_mlflow_takes() -> None:
    found = Figures(evaluation(), "auto", 0.2, 5_000_000, {"fixture": {"ratio_64": 1.8}}).metrics()
    assert found["float accuracy"] == 0.906
    assert found["accuracy of the default"] == 0.88
    assert found["cost of the default"] == 0.18
    assert found["cost at 0.5 points below float"] == 0.3
    assert found["cost at 1 point below float"] == 0.2
    assert found["gain over static at least"] == -0.002
    assert found["images/s over static"] == 1.8
    assert found["bundle in MB"] == 5
    assert all(ALLOWED.fullmatch(name) for name in found)


def test_what_is_not_known_is_left_out() -> None:
    methods = {"quee_plan": method(cost=None), "static_hull": method()}
    figures = Figures(evaluation(fp32_accuracy=None, methods=methods, gains={}), "plan", 0.3)
    found = figures.metrics()
    assert not {"float accuracy", "accuracy of the default", "cost at 0.5 points below float", "auc at cost 0.4"} & set(
        found
    )
    assert not [name for name in found if name.startswith("gain")]
    assert figures.method == "quee_plan"
    assert figures.untold


def test_a_result_without_an_evaluation_has_no_numbers() -> None:
    figures = Figures({}, "auto", 0.2)
    assert (figures.metrics(), figures.curves([]), figures.sentence(), figures.table()) == ({}, [], "", [])


@pytest.mark.parametrize("policy", ["gone", "auto"])
def test_a_policy_that_was_not_evaluated_gives_way_to_one_that_was(policy: str) -> None:
    assert Figures({"methods": {"quee_plan": method()}}, policy, 0.2).method == "quee_plan"


def test_metrics_and_curves_together_stay_within_the_most() -> None:
    figures = Figures(evaluation(), "auto", 0.2, 1, {"fixture": {"ratio_64": 1.8}})
    bands = [{"method": name, "cost": 0.2, "accuracy": 0.9} for name in MAIN]
    names = {point.name for point in figures.curves(bands)}
    assert len(names) + len(figures.metrics()) <= MOST
    assert {"curve/quee_auto", "curve/static_hull", "curve/confidence_hull", "curve/oracle"} <= names
    assert {point.step for point in figures.curves(bands)} == {200}


def test_the_sentence_says_the_least_loss_that_is_reached() -> None:
    assert Figures(evaluation(), "auto", 0.2).sentence() == (
        "Within 0.5 points of the float network's accuracy (90.6 %), for 30.0 % of the 8-bit network's computation."
    )
    lost = {"quee_auto": method(cost=None)}
    assert Figures(evaluation(methods=lost), "auto", 0.2).sentence().startswith("Within 1 point of")
    lost["quee_auto"]["cost_at_drop_1.0"] = None
    assert Figures(evaluation(methods=lost), "auto", 0.2).sentence() == (
        "Accuracy 88.0 %, for 18.0 % of the 8-bit network's computation."
    )


def test_without_labels_everything_speaks_of_agreement() -> None:
    figures = Figures(evaluation(measure="agreement"), "auto", 0.2)
    assert "accuracy" not in f"{figures.sentence()} {list(figures.metrics())} {figures.table()}"
    assert figures.metrics()["agreement of the default"] == 0.88


def test_the_table_has_a_row_per_main_method_the_deployed_one_first() -> None:
    rows = Figures(evaluation(), "auto", 0.2).table()
    assert rows[0]["method"] == "quee_auto (deployed)"
    assert rows[-1]["method"] == "oracle (bound)"
    (static,) = [row for row in rows if row["method"] == "static_hull"]
    assert static["gain over it"] == "+1.00 [-0.20, +2.00]"
    assert "accuracy at cost 0.4" not in static, "no method was evaluated there"
