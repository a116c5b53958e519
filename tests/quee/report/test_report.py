"""The report has the same bytes twice, loads nothing from elsewhere, shows every method, and its text fits the intervals."""

import re
from dataclasses import replace
from html import escape

import matplotlib
import pytest
from example_results import METHODS, evaluation, example, summary
from matplotlib.figure import Figure

from quee.report import Results
from quee.report import figures as figures_module
from quee.report.figures import FIGURES, Drawing, draw, usage
from quee.report.inputs import Asked, Example, Inputs, Path
from quee.report.page import build_page
from quee.report.parts import parts
from quee.report.sections import deployed, verdict
from tasks.examples import EXAMPLES, PAIRS, PICTURED


def shown(results: Results, figures: dict[str, str], inputs: Inputs | None = None) -> str:
    return build_page(results, figures, summary(results), "artifacts/example/bundle", inputs)


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    return draw(example(), summary(example()))


@pytest.fixture(scope="module")
def page(figures: dict[str, str]) -> str:
    return shown(example(), figures)


def test_two_builds_are_the_same_bytes_whatever_the_settings_of_matplotlib(
    figures: dict[str, str], page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    again = draw(example(), summary(example()))
    assert again == figures
    assert shown(example(), again) == page


def test_costs_near_the_float_network_have_their_intervals_and_stand_against_rivals(page: str) -> None:
    savings = page[page.index('id="savings"') :]
    assert "<td>never<small>0.3 … never</small></td><td>0.4<small>0.35 … 0.5</small></td>" in savings
    assert "<td>static_hull</td><td>0 … never</td><td>0.6 … 0.8</td>" in savings
    assert "<td>static_w8a8</td><td>never</td><td>0.4</td>" in savings  # results from before there were intervals


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    assert "http" not in page
    assert not re.search(r"<(link|img|iframe)\b|@import|\bsrc=|url\((?!#)", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))


def test_references_within_the_page_resolve_and_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_the_first_screen_has_the_sentence_the_figure_and_the_command_and_the_tables_are_folded(page: str) -> None:
    sentence = (
        "<h1>Right on 90.8&nbsp;% of the test images, 6.2 points below the float network (97.0&nbsp;%), for 20&nbsp;%"
    )
    apart = (
        "<p>The least cost within one point of the float network is 40&nbsp;%; that point was picked on the test images"
    )
    order = [
        sentence,
        apart,
        'id="curves"',
        "quee serve artifacts/example/bundle",
        "How sure that is",
        "Everything else",
    ]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "<table" not in re.sub(r"<details\b.*?</details>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("shown_there", "said"),
    [
        (
            True,
            "<p>180 validation images show with 95 % confidence that the point taken loses no more; on test it is right on",
        ),
        (
            False,
            "<p>That cannot be promised: on 180 validation images no point is shown to lose so little (95 % confidence).",
        ),
    ],
    ids=["shown", "not shown"],
)
def test_what_answers_a_request_for_a_small_loss_stands_beside_what_is_deployed(shown_there: bool, said: str) -> None:
    asked = Asked(0.5, shown_there, 1.976, 180, 0.981, 0.069)
    text = deployed(summary(example()), "a/bundle", asked)
    assert text.index("right on <strong>90.8 %</strong>") < text.index(
        "quee predict a/bundle images/ --accuracy-loss 0.5"
    )
    assert said in text and "98.1 %, for 6.9 % of the 8-bit" in text
    assert ("shown to lose at most 1.98 points" in text) != shown_there
    assert "--accuracy-loss" not in deployed(summary(example()), "a/bundle"), "the float network is not known"


def test_means_over_seeds_are_told_from_what_the_bundles_own_policies_do() -> None:
    """`auto` may choose otherwise under another seed."""
    found = summary(example())
    assert found.bundled() == ""
    again = [{**row, "seeds": 3, "bundled_accuracy": 0.911, "bundled_cost": 0.05} for row in found.points]
    own = "That is the mean of 3 seeds; the first, whose policies the bundle holds, is right on 91.1 % for 5.0 %."
    assert own in deployed(replace(found, points=again), "a/bundle")
    same = [{**row, "bundled_accuracy": row["test_accuracy"], "bundled_cost": row["test_cost"]} for row in again]
    assert replace(found, points=same).bundled() == ""


def test_a_budget_that_was_not_evaluated_is_shown_at_the_nearest() -> None:
    own = replace(summary(example()), budget=0.25)
    assert (
        "budget 0.25 unless" in (text := deployed(own, "a")) and "at budget 0.2, the nearest that was evaluated" in text
    )


def test_every_method_appears(page: str) -> None:
    for method in METHODS:
        assert f"<td>{method}</td>" in page
    assert "<title>An &lt;example&gt;</title>" in page
    assert "class <0>" not in page


@pytest.mark.parametrize("drawing", FIGURES, ids=lambda drawing: drawing.name)
def test_each_figure_is_drawn_where_its_results_are_and_stands_on_the_page_under_its_title(
    drawing: Drawing, figures: dict[str, str], page: str
) -> None:
    title, caption = drawing.words(example())
    assert figures[drawing.name].startswith("<svg")
    assert f'<details id="{drawing.name}"><summary>{escape(title)}</summary>' in page and escape(caption) in page
    for field in drawing.needs:
        assert drawing.svg(replace(example(), **{field: []})) is None


def test_a_figure_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch, figures: dict[str, str]) -> None:
    def samples(results: Results) -> Figure:
        figure = Figure()
        figure.subplots().bar(["samples"], [results.dataset["samples"]])
        return figure

    own = Drawing("samples", samples, ("Samples", "How many images there are."), after="savings")
    monkeypatch.setattr(figures_module, "FIGURES", [*FIGURES, own])
    drawn = draw(example(), summary(example()))
    assert {name: text for name, text in drawn.items() if name != "samples"} == figures
    monkeypatch.setattr("quee.report.page.FIGURES", [*FIGURES, own])
    page = shown(example(), drawn)
    assert (
        page.index('id="others"') < page.index('<details id="samples"><summary>Samples<') < page.index('id="methods"')
    )


def test_a_budget_that_is_not_met_is_marked(page: str) -> None:
    row = next(line for line in page.split("<tr") if "<td>static_w8a8</td>" in line and "<small>" in line)
    accuracies = re.findall(r"([\d.]+ %\*?)<small>", row)
    assert [text.endswith("*") for text in accuracies] == [True, True, False]


def test_intervals_are_put_into_words(page: str) -> None:
    assert [verdict(0.1, 0.2), verdict(-0.2, -0.1), verdict(-0.1, 0.1)] == [
        "above",
        "below",
        "not distinguishable from",
    ]
    assert "quee_plan is <strong>above</strong> static_hull: +1.50 points (+1.00 to +2.00)" in page
    assert "quee_plan is <strong>below</strong> confidence_hull" in page
    assert "quee_plan is above it at 0.05; not distinguishable from it at 0.2 (paired; one 95 % band" in page
    assert "quee_plan is <strong>not distinguishable from</strong> random_routing" in page


def test_how_gates_are_read_is_shown_with_the_plainest_candidate_and_the_reason(page: str) -> None:
    assert "<td>mean2x2</td>" in page and "hidden 8, dropout 0.5" in page
    assert "<td>mean_max</td>" in page and "least loss and cost" in page
    assert "<td>mean</td>" not in page  # neither chosen nor the best of its kind


def test_without_repetitions_or_recorded_usage_the_page_says_so_or_leaves_out() -> None:
    results = example()
    bare = replace(
        results,
        resplits=[],
        usage=[],
        calibration=[],
        sensitivity=[],
        clusters=[],
        quality=[],
        quality_curve=[],
        bands=[],
        metrics={**results.metrics, "evaluate": evaluation(resplits=None)},
    )
    figures = draw(bare, summary(bare))
    assert set(figures) == {"candidates", "curves", "techniques", "others", "predictors"}
    assert "say nothing of another division" in shown(bare, figures)


def test_without_other_divisions_the_page_gives_the_gains_over_the_test_samples(
    figures: dict[str, str],
) -> None:
    results = example()
    metrics = {**results.metrics, "evaluate": evaluation(resplits=None)}
    page = shown(replace(results, resplits=[], metrics=metrics), figures)
    assert "quee_plan is <strong>above</strong> static_hull: +0.40 points (+0.10 to +0.70)." in page


def test_of_many_classes_only_the_extremes_are_drawn() -> None:
    figure = usage(example(classes=200))
    assert figure is not None
    assert len(figure.axes[0].get_yticklabels()) == 24


def test_with_many_classes_and_images_the_page_stays_below_two_megabytes(figures: dict[str, str]) -> None:
    image = "data:image/webp;base64," + "A" * 6000  # a tile of noise, which nothing makes smaller
    some = Example("a class with a long name", "w4a4-w8a8", 0.2, True, image)
    paths = [
        Path(f"w4a4-{number}", 0.01, 0.1, 0.9, [some] * EXAMPLES if number < PICTURED else []) for number in range(80)
    ]
    inputs = Inputs("quee_auto", 0.2, 10_000, 4, ["w4a4"], paths, [(some, some)] * PAIRS, 100, [{"w4a4": 0.1}], 0.01)
    page = shown(example(classes=100), figures, inputs)
    assert 600_000 < len(page) < 2_000_000
    assert "76 more classes" in page and "72 more paths" in page


def test_what_was_executed_is_shown_where_it_was_measured() -> None:
    results, fast = example(), {"accuracy": 0.91, "reaches": True, "images_per_second_64": 9876.0, "p50_ms": 0.5}
    rows = {"QuEE": fast, "OpenVINO fp32 <x>": {**fast, "reaches": False, "images_per_second_64": 1234.0}}
    fixture = {"rows": rows, "target": 0.9, "over_parts": 1.03, "ratio_64": 1.7}
    measured = replace(results, executed={"machine": "CPU", "threads": 1, "fixture": fixture})
    page = shown(measured, draw(results, summary(results)))
    assert all(text in page for text in ("9,876", "1,234", "1.70 at batch 64", "OpenVINO fp32 &lt;x&gt;", "1.030"))
    assert 'id="executed"' not in shown(results, draw(results, summary(results)))


def test_the_chosen_tree_is_told_with_its_candidates_and_why() -> None:
    results = example()
    text = re.sub(r"<[^>]+>", " ", parts(results))
    assert "w3a3, w4a4, 6 paths" in text and "judged on 100 images" in text and "in 123,456 passes" in text
    assert re.search(r"w3a3 by layer, w4a4\s+95\.00 %", text)
    assert re.search(r"w4a4\s+uniform\s+−3\.00\s+−5\.00 … −1\.00", text)
    drawn = draw(results, summary(results))["candidates"]
    assert all(f">{name}<" in drawn for name in ("w3a3 by layer", "w4a4", "w4a4 by layer"))
    named = replace(results, tree={**results.tree, "choice": {}})
    assert "candidates" not in draw(named, summary(named)) and "<h3>Tree" not in parts(named)


def test_the_policy_by_budget_is_shown_where_policies_were_chosen(
    figures: dict[str, str],
) -> None:
    results = example()
    assert 'id="policies"' not in shown(results, figures)
    facts = {
        "accuracy": {"auto": 0.9349, "plan": 0.93, "ztw": 0.94},
        "budgets": {"0.5": "plan", "0.1021": "plan", "0.06": "ztw", "0.9": "ztw"},
        "default": "plan",
    }
    page = shown(replace(results, metrics={**results.metrics, "policies": {"auto": facts}}), figures)
    own = page[page.index('<details id="policies">') : page.index('<details id="budgets">')]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", own)
    assert cells[:6] == ["0.06", "ztw", "0.1 to 0.5", "plan", "0.9", "ztw"]
    assert cells[6:] == ["ztw", "94.00 %", "quee_auto", "93.49 %", "plan", "93.00 %"]
    assert '<td class="best">94.00 %</td>' in own and "which is plan here" in own


def test_the_format_of_products_is_told_with_what_was_measured() -> None:
    results = example()
    assert "Products that calibration does not quantize" not in parts(results)
    rows = [
        {"format": "int8", "samples": 2000, "changed": 30, "low": 0.0101, "high": 0.0213},
        {"format": "bf16", "samples": 2000, "changed": 1, "low": 0.0, "high": 0.0028},
    ]
    said = {"format": "bf16", "limit": 0.001, "measured": rows, "products": ["a", "b"]}
    tree = {"float_products": said, "precisions": ["w3a3"], "layers": {}, "choice": {}}
    found = replace(results, tree=tree)
    text = re.sub(r"<[^>]+>", " ", parts(found))
    assert "(2 of them) are executed and counted in bf16, the cheapest format" in text
    assert "more than 0.1 % of the answers" in text
    assert re.search(r"int8\s+2,000\s+30\s+1\.50 %\s+1\.01 % … 2\.13 %", text)
    told = replace(found, tree={**tree, "float_products": {**said, "measured": []}})
    assert "in bf16, as told." in re.sub(r"<[^>]+>", " ", parts(told))
