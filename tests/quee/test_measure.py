"""One place decides whether a figure is called accuracy or agreement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.measure import ACCURACY, AGREEMENT, KEY, MEASURES, Measure, measure_of

SAID = {
    "accuracy on test (%)": "agreement on test (%)",
    "Accuracies are those": "Agreements are those",
    "fp32_accuracy": "fp32_agreement",
    "methods.quee_plan.accuracy_at_budget.0.2": "methods.quee_plan.agreement_at_budget.0.2",
    "accuracy.labelled": "accuracy.labelled",
    "quee_plan is right on 97 %": "quee_plan agrees with the float network on 97 %",
    "cost": "cost",
}


@pytest.mark.parametrize("text", SAID)
def test_texts_and_names_of_metrics_say_agreement_except_of_labelled_images(text: str) -> None:
    assert AGREEMENT.said(text) == SAID[text]
    assert ACCURACY.said(text) == text


@given(st.text())
def test_nothing_but_words_for_accuracy_changes(text: str) -> None:
    assert "ccurac" in text or "is right on" in text or AGREEMENT.said(text) == text


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_results_tell_their_measure(measure: Measure) -> None:
    assert measure_of(measure.facts) is measure
    assert KEY not in ACCURACY.facts, "results with labels are written as before"
