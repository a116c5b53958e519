"""The page of two results: its sentence says what the numbers say, and what is not known is left out."""

import re
from dataclasses import replace
from typing import Any

import pytest
from example_results import evaluation, example, method, summary

from quee.report.comparison import Comparison, Kind, Shared, Side, comparison_page, curves, routing, sentence, verdict
from quee.report.inputs import Example, Steps

PAIRED = {"mean": -0.0012, "low": -0.003, "high": 0.001}
BEFORE = Example("a<b", "w3a3", 0.1, False, "data:image/webp;base64,AA")
AFTER = replace(BEFORE, path="w3a3-w8a8", cost=0.6, right=True)
STEPS = Steps(2, ["w3a3", "w8a8"])
SHARED = Shared(
    images=1234,
    tested=(1234, 1234),
    budget=0.2,
    overall=PAIRED,
    at_budgets={0.05: PAIRED, 0.2: {"mean": 0.0, "low": 0.0, "high": 0.0}},
    classes=[
        {"class": f"class <{k}>", "images": 10, "right": (9, 9 - k), "cost": (0.1, 0.2), "gained": 0, "lost": k}
        for k in range(3)
    ],
    moved=30,
    changed=(1, 3),
    kinds=[Kind("became right", 1, [(BEFORE, AFTER)]), Kind("dearer", 29)],
    paths=[{"first": "w3a3", "second": "w3a3-w8a8", "images": 30, "gained": 1, "lost": 0}],
    steps=(STEPS, STEPS),
)


def side(label: str, **changed: Any) -> Side:
    results = example()
    own = replace(summary(results), metrics=evaluation(**changed))
    return Side(label, own, results.curve, results.bands, "digits", {"evaluate/metrics.json": "ab" * 32})


def comparison(shared: Shared | None = SHARED, same: bool | None = True, **changed: Any) -> Comparison:
    sides = (side("first"), side("second", **changed))
    return Comparison(sides, {"targets.clusters": ("20", "5"), "new.key": (None, "<1>")}, {}, same, shared)


def better(mean: float, low: float, high: float) -> Shared:
    return replace(SHARED, overall={"mean": mean, "low": low, "high": high})


SAID = {
    "equal": (comparison(), "first and second cannot be told apart: averaged over budgets, second has −0.12 points of accuracy"),
    "second": (
        comparison(better(0.01, 0.005, 0.02)),
        "second is better than first: by 1.00 points of accuracy, averaged over budgets (95 %: +0.50 to +2.00).",
    ),
    "first": (
        comparison(better(-0.01, -0.02, -0.005)),
        "first is better than second: by 1.00 points of accuracy, averaged over budgets (95 %: +0.50 to +2.00).",
    ),
    "none": (comparison(better(0, 0, 0)), "first and second are equally accurate at every budget."),
    "some images": (comparison(same=False), ", on the 1,234 test images that both have."),
    "seed": (comparison(replace(SHARED, first_of=", of the first fold")), "to +0.10), of the first fold."),
    "unpaired": (
        comparison(None, methods={"quee_plan": {**method("quee_plan"), "auc": 0.92}}),
        "second has 2.00 points more accuracy than first, averaged over budgets, on the same test images; at a budget of 0.2 "
        "their 95 % intervals overlap.",
    ),
    "other images": (comparison(None, False), "on different test images"),
    "perhaps other images": (comparison(None, None), "on test images that may differ"),
    "no auc": (comparison(None, methods={}), "cannot be told: the accuracy of second over all budgets is not known."),
    "agreement": (
        replace(comparison(), sides=(side("first", measure="agreement"), side("second", measure="agreement"))),
        "points of agreement",
    ),
    "one of agreement": (
        comparison(measure="agreement"),
        "are of different data, so that their accuracies do not compare. first comes within one point of its float network for "
        "40 % of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_the_sentence_says_which_is_better_as_far_as_it_can_be_told(case: str) -> None:
    found, said = SAID[case]
    assert said in sentence(found)


def test_what_routing_adds_is_said_of_both_or_of_neither() -> None:
    gain = {"gain.quee_plan.static_hull": {"mean": 0.0195, "low": 0.0173, "high": 0.0218}}
    both = Comparison((side("first", resplits=gain), side("second", resplits=gain)), {}, {}, True)
    assert routing(both) == (
        "Averaged over budgets, routing adds +1.95 [+1.73, +2.18] points of accuracy to first and +1.95 [+1.73, +2.18] to "
        "second, over the best fixed precisions of each (static_hull). Deployed are quee_plan in first and quee_plan in second."
    )
    assert (
        routing(Comparison((side("first", resplits=gain), side("second", resplits={}, gains={})), {}, {}, True)) == ""
    )


@pytest.fixture(scope="module")
def page() -> str:
    return comparison_page(comparison())


def test_the_page_has_the_same_bytes_twice_and_loads_nothing_from_elsewhere(page: str) -> None:
    assert comparison_page(comparison()) == page
    assert "http" not in page and not re.search(r"<(link|iframe)\b|@import|url\((?!#)", page)
    assert {source.partition(";")[0] for source in re.findall(r'\bsrc="([^"]*)"', page)} == {"data:image/webp"}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_first_screen_has_the_sentence_both_curves_and_what_each_deploys(page: str) -> None:
    parts = [
        "<h1>first and second cannot",
        'id="curves"',
        "A: first",
        "B: second",
        "How sure that is",
        "Everything else",
    ]
    places = [page.index(text) for text in parts]
    assert places == sorted(places)
    names = re.findall(r">([^<]+)</text></g>", curves(comparison()))
    assert names == ["float, 97.0 %", "first", "second"]
    long = replace(comparison(), sides=(side("a" * 40), side("second")))
    assert re.findall(r">([^<]+)</text></g>", curves(long))[1] == "A", "there is no room for a long name"


def test_bands_are_drawn_where_there_is_no_paired_interval() -> None:
    assert 'class="band"' not in curves(comparison())
    assert curves(comparison(None)).count('class="band"') == 2


def test_settings_classes_and_images_that_changed_are_shown(page: str) -> None:
    assert "<code>targets.clusters</code></td><td><code>20</code></td><td><code>5</code>" in page
    assert "<td>–</td><td><code>&lt;1&gt;</code></td>" in page
    order = [page.index(f"<td>class &lt;{k}&gt;</td>") for k in (2, 1, 0)]
    assert order == sorted(order), "what changed most first"
    assert "<td>90.0 %</td><td>70.0 %</td><td>−20.00</td><td>0 / 2</td>" in page
    assert "30 of 1,234 test images (2.4 %) take another path" in page
    assert "Became right: 1 image<" in page and "at more cost: 29 images<" in page
    assert page.count("<img") == 1 and "10 %, wrong</small>" in page and "60 %</small>" in page
    assert "right on 1 image that first gets wrong, and wrong on 3 images that first gets right" in page


def test_differing_test_sets_are_named_with_their_sizes() -> None:
    found = comparison(replace(SHARED, tested=(2000, 1500)), same=False)
    text = re.sub(r"<[^>]+>", "", comparison_page(found))
    assert (
        "The test sets differ: first on 2,000 and second on 1,500 images. Compared are the 1,234 that both have" in text
    )
    assert "measured on the test images of its own experiment" in text


def test_without_shared_images_their_parts_are_left_out_with_the_reason() -> None:
    found = replace(comparison(None), left_out=["Example images: <none>."])
    text = comparison_page(found)
    assert 'id="classes"' not in text and 'id="images"' not in text and "<img" not in text
    assert "<li>Example images: &lt;none&gt;.</li>" in text and "there is no paired interval" in text


def test_different_data_are_not_subtracted() -> None:
    found = replace(comparison(None, False), sides=(side("first"), replace(side("second"), dataset="other")))
    text = comparison_page(found)
    assert "do not compare" in text
    assert not re.search(r"<td>[+−]\d", text)


def test_many_settings_are_folded() -> None:
    found = replace(comparison(), settings={f"block.key{k}": ("1", "2") for k in range(20)})
    assert "<summary>8 more settings</summary>" in comparison_page(found)
    assert "Nothing: the settings are equal." in comparison_page(replace(comparison(), settings={}))


@pytest.mark.parametrize("own", [(1.0, 3.1), (3.1, 1.0)])
def test_other_units_of_cost_are_said_beside_the_verdict(own: tuple[float, float]) -> None:
    found = comparison(None)
    found = replace(found, sides=tuple(replace(s, unit=1e9 * u) for s, u in zip(found.sides, own, strict=True)))
    less, more = ("first", "second") if own[0] < own[1] else ("second", "first")
    said = (
        f"that of {more} computes 3.1 times as much as that of {less}. At equal computation the order may be another."
    )
    assert verdict(found).endswith(said) and said in comparison_page(found)
    same = replace(found, sides=tuple(replace(s, unit=1e9) for s in found.sides))
    assert verdict(same) == sentence(same), "equal units need no word"
    unknown = replace(found, sides=(found.sides[0], replace(found.sides[1], unit=None)))
    assert verdict(unknown) == sentence(unknown)


def test_curves_of_other_levels_both_show() -> None:
    found = comparison(None)
    low = replace(found.sides[1], curve=[{**row, "accuracy": row["accuracy"] - 0.3} for row in found.sides[1].curve])
    low = replace(low, bands=[], summary=replace(low.summary, metrics={**low.summary.metrics, "fp32_accuracy": None}))
    svg = curves(replace(found, sides=(found.sides[0], low)))
    lines = [re.findall(r",([\d.]+)", line) for line in re.findall(r'<polyline[^>]*points="([^"]+)"', svg)]
    assert len(lines) == 2 and all(any(14 < float(y) < 344 for y in line) for line in lines)
