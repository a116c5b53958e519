"""Two results in the terminal: each number of the right side, at any width, and nothing subtracted across data sets."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tasks.mlflow.compare import Side
from tasks.verbs.beside import COMPARED, facts, methods_tables

METRICS = {
    "fp32_accuracy": 0.9191,
    "backbone/parameters": 269722.0,
    "methods/quee_auto.auc": 0.8998,
    "methods/quee_auto.accuracy_at_budget.0.2": 0.9064,
    "methods/quee_auto.cost_at_drop_0.5": 0.2834,
    "methods/static_hull.auc": 0.8803,
}


def side(label: str, dataset: str = "digits", **metrics: Any) -> Side:
    return Side(label, {"prepare.dataset": dataset}, {**METRICS, **metrics})


def text(first: Side, second: Side, width: int = 80) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(*methods_tables((first, second), width))
    return console.export_text()


def test_a_row_has_both_aucs_their_difference_both_accuracies_and_both_costs() -> None:
    rows = text(side("one"), side("other", **{"methods/quee_auto.auc": 0.9187})).splitlines()
    (row,) = [row.split() for row in rows if row.startswith("quee_auto")]
    assert row == ["quee_auto", "89.98", "91.87", "+1.89", "90.64", "90.64", "0.283", "0.283"]
    (row,) = [row.split() for row in rows if row.startswith("static_hull")]
    assert row == ["static_hull", "88.03", "88.03", "+0.00", "–", "–", "never", "never"]


def test_accuracies_on_other_data_are_not_subtracted() -> None:
    assert "+" not in text(side("one"), side("other", "svhn"))


@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_no_number_is_cut_off_in_a_narrow_terminal(width: int) -> None:
    shown = text(side("one"), side("other"), width).split()
    assert [number for number in ("89.98", "90.64", "0.283", "never") if number not in shown] == []


def test_what_has_no_methods_has_no_table() -> None:
    bare = Side("one", {}, {"seconds": 1.0})
    assert methods_tables((bare, bare), 80) == [] and COMPARED
    assert list(facts((bare, side("other")))) == ["A: one", "B: other, float 91.91 %, 269,722 parameters"]
