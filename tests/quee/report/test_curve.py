"""The first figure: names at the lines, what every point is, and the same text twice."""

import itertools
import re
from dataclasses import replace

import pytest
from example_results import evaluation, example, summary

from quee.report.curve import HEIGHT, WIDTH, curve_figure
from quee.report.ends import spread


def test_each_line_has_its_name_and_the_float_network_its_accuracy() -> None:
    text = curve_figure(example(), summary(example()))
    names = re.findall(r">([^<]+)</text></g>", text)
    assert names == ["float, 97.0 %", "fixed precisions", "confidence exits", "quee_plan"]
    assert text == curve_figure(example(), summary(example()))


def test_a_point_says_its_setting_accuracy_and_cost() -> None:
    results = example()
    rows = [row | {"lambda": 0.25} if row["method"] == "quee_plan" else row for row in results.curve]
    titles = re.findall(r"<title>(.*?)</title>", curve_figure(replace(results, curve=rows), summary(results)))
    assert "quee_plan, λ 0.25: 90.7 % at cost 0.03 (3.0 %)" in titles
    assert "the whole network at w8a8: 91.0 % at cost 1 (1 ×)" in titles
    assert any(title.startswith("deployed, budget 0.2: 90.8 %") for title in titles)


def test_a_point_of_several_policies_has_the_setting_of_the_policy_that_serves_it() -> None:
    results = example()
    auto = [row | {"method": "quee_auto"} for row in results.curve if row["method"] == "quee_plan"]
    rows = [row | {"lambda": 0.25} if row["method"] == "quee_plan" else row for row in results.curve]
    facts = {"auto": {"budgets": {"0.1": "plan"}}}
    found = replace(results, curve=[*auto, *rows], metrics={**results.metrics, "policies": facts})
    text = curve_figure(found, replace(summary(results), method="quee_auto"))
    assert "<title>quee_auto, as quee_plan, λ 0.25: " in text


def test_nothing_lies_outside_of_the_figure() -> None:
    text = curve_figure(example(), summary(example()))
    places = [(float(x), float(y)) for x, y in re.findall(r'c?x="([\d.-]+)" c?y="([\d.-]+)"', text)]
    assert places and all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_without_a_float_network_there_is_no_line_of_it() -> None:
    results = example()
    metrics = {**results.metrics, "evaluate": evaluation(fp32_accuracy=None)}
    assert ">float, " not in curve_figure(replace(results, metrics=metrics), summary(results))


@pytest.mark.parametrize("places", [[5.0, 5.0, 5.0], [9.0, 1.0, 8.0, 30.0], [0.0], []])
def test_names_are_moved_apart_and_keep_their_order(places: list[float]) -> None:
    moved = spread(places, 4.0)
    order = sorted(range(len(places)), key=lambda index: (places[index], moved[index]))
    gaps = [moved[after] - moved[before] for before, after in itertools.pairwise(order)]
    assert all(gap >= 4.0 - 1e-3 for gap in gaps)
    assert len(moved) == len(places)
