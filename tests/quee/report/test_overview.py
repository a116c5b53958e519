"""The figure of all experiments."""

import re

import pytest

from quee.report.overview import COLUMNS, Line, drawn, overview

POINTS = {"quee_auto": [(0.1, 0.85), (0.4, 0.9)], "static_hull": [(0.2, 0.8)], "confidence_hull": []}


@pytest.mark.parametrize("count", [1, COLUMNS, 2 * COLUMNS + 1])
def test_an_experiment_is_a_panel_named_with_its_float_accuracy(count: int) -> None:
    figure = overview([Line(f"photos{number}", 0.905, POINTS) for number in range(count)])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"photos{number}, float 90.5 %" for number in range(count)]
    lines = {line.get_label(): line.get_xydata().tolist() for line in shown[0].lines}
    assert lines["quee_auto"] == [[0.1, pytest.approx(-5.5)], [0.4, pytest.approx(-0.5)]], "against the float network"
    assert "fixed precisions" in lines, "the report's word for `static_hull`"
    assert "confidence exits" not in lines, "a method without points"
    markers = {line.get_label(): line.get_marker() for line in shown[0].lines}
    assert (markers["fixed precisions"], markers["quee_auto"]) == ("o", ""), "one point alone makes no line"


def test_the_figure_is_the_same_bytes_twice() -> None:
    once, twice = (drawn([Line("a$b", 0.9, POINTS)]) for _ in range(2))
    assert once == twice and "a$b" in once


def test_a_figure_that_is_a_file_follows_a_dark_system_and_leaves_a_page_alone() -> None:
    text = drawn([Line("photos", 0.9, POINTS)])
    (rule,) = re.findall(r"@media \(prefers-color-scheme: dark\) \{ (\S+) \{ filter: invert", text)
    assert rule == ".figure:root" and text.startswith('<svg class="figure"'), "within a page the root is the page"


def test_no_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one at least"):
        overview([])
