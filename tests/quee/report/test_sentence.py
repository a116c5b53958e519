"""The sentence says what the numbers say, and claims no more where they are missing or say otherwise."""

from dataclasses import replace
from typing import Any

import pytest

from quee.report.sentence import Summary, share, spent, with_chosen

EIGHT = "of the 8-bit network's computation."


def summary(
    points: dict[float, tuple[float, float]] | None = None, labelled: tuple[Any, ...] = (), **metrics: Any
) -> Summary:
    """Of `quee_auto` with accuracy and cost by budget; `drops` are the costs near the float network."""
    drops = {f"cost_at_drop_{drop}": cost for drop, cost in metrics.pop("drops", {}).items()}
    found = {"fp32_accuracy": 0.906, "methods": {"quee_auto": drops}, "test_samples": 1000, "seeds": 1, **metrics}
    rows = [
        {"method": "quee_auto", "budget": b, "test_accuracy": a, "test_cost": c, "low": a - 0.01, "high": a + 0.01}
        for b, (a, c) in (
            {0.1: (0.85, 0.11), 0.2: (0.889, 0.21), 1.0: (0.889, 0.8)} if points is None else points
        ).items()
    ]
    other = {"method": "oracle", "budget": 0.2, "test_accuracy": 0.99, "test_cost": 0.01}
    return Summary(found, [*rows, other], "quee_auto", 0.25, labelled)


NEVER = {"0.5": None, "1.0": None}
SAID: dict[str, tuple[Summary, str]] = {
    "below float": (
        summary(drops={"0.5": 0.22}),
        f"Right on 88.9 % of the test images, 1.7 points below the float network (90.6 %), for 21 % {EIGHT}",
    ),
    "above float": (
        summary({0.2: (0.91, 0.0423)}),
        f"Right on 91.0 % of the test images, 0.4 points above the float network (90.6 %), for 4.2 % {EIGHT}",
    ),
    "as float": (
        summary({0.2: (0.9062, 4.05)}),
        "Right on 90.6 % of the test images, as the float network is (90.6 %), for 4 times the 8-bit network's computation.",
    ),
    "no float network": (summary(fp32_accuracy=None), f"Right on 88.9 % of the test images, for 21 % {EIGHT}"),
    "agreement": (
        summary(drops={"0.5": 0.3}, measure="agreement", fp32_accuracy=1.0),
        f"Agrees with the float network on 88.9 % of the test images, for 21 % {EIGHT}",
    ),
    "nothing": (summary({}, drops=NEVER), "No operating point of it was measured."),
}


@pytest.mark.parametrize("case", SAID)
def test_the_sentence_is_of_the_deployed_point_whatever_other_points_reach(case: str) -> None:
    found, said = SAID[case]
    assert found.sentence() == said


def test_the_method_is_named_with_the_policy_that_auto_chose() -> None:
    found = summary()
    assert found.sentence(named=True).startswith("quee_auto is right on 88.9 % of the test images, 1.7 points")
    chosen = [
        {"method": "quee_auto", "budget": 0.2, "policy": name, "seed": seed} for seed, name in ((1, "ztw"), (0, "plan"))
    ]
    named = replace(found, points=with_chosen(found.points, chosen))
    assert named.sentence(named=True).startswith("quee_auto (auto chose plan) is right on"), "of the first seed"
    assert named.sentence() == found.sentence()
    agreeing = replace(named, metrics={**found.metrics, "measure": "agreement"})
    assert agreeing.sentence(named=True).startswith(
        "quee_auto (auto chose plan) agrees with the float network on 88.9 %"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"drops": {"0.5": 0.22, "1.0": 0.1}},
            "The least cost within half a point of the float network is 22 %; that point was picked on the test images, the "
            "deployed one on validation.",
        ),
        ({"drops": {"0.5": None, "1.0": 0.1}}, "The least cost within one point of the float network is 10 %; that"),
        ({"drops": NEVER}, "It has no point within one point of the float network."),
        (
            {"drops": {"0.5": 0.3}, "measure": "agreement", "fp32_accuracy": 1.0},
            "The least cost for agreement with the float network on 99.5 % of the images is 30 %; that",
        ),
        ({"drops": {"0.5": 0.3}, "fp32_accuracy": None}, ""),
    ],
    ids=["half a point", "one point", "never", "agreement", "no float network"],
)
def test_the_least_cost_near_the_float_network_is_told_apart_from_what_is_deployed(
    changed: dict[str, Any], said: str
) -> None:
    found = summary(**changed).nearest()
    assert found.startswith(said) and bool(found) == bool(said)


def methods(**halves: float | None) -> dict[str, Any]:
    return {name: {"cost_at_drop_0.5": half, "cost_at_drop_1.0": 0.1} for name, half in halves.items()}


@pytest.mark.parametrize(
    ("halves", "said"),
    [
        (
            {
                "quee_auto": 0.5,
                "static_hull": 0.43,
                "static_w8a8": 1.0,
                "confidence_hull": 0.34,
                "confidence_w6a6": 0.3,
            },
            ": fixed precisions (static_hull) 43 %, confidence exits (confidence_hull) 34 %, quee_auto 50 %, all by",
        ),
        ({"quee_auto": 0.5, "static_w6a6": 0.45}, ": fixed precisions (static_w6a6) 45 %, quee_auto 50 %, all by"),
        (
            {"quee_auto": None, "confidence_hull": 0.9},
            ": confidence exits (confidence_hull) 90 %, quee_auto never, all",
        ),
        ({"quee_auto": 0.5, "static_hull": 0.47, "confidence_hull": 0.6, "confidence_w6a6": 0.1}, ""),
        ({"static_hull": 0.1}, ""),
    ],
    ids=["both", "one precision", "alone gets there", "no clear saving", "not evaluated"],
)
def test_something_simpler_that_is_clearly_cheaper_is_named(halves: dict[str, float | None], said: str) -> None:
    found = summary(methods=methods(**halves)).instead()
    assert said in found and bool(found) == bool(said)
    assert not found or found.startswith(
        "Something simpler is the better choice within half a point of the float network"
    )


def test_what_is_simple_itself_has_nothing_simpler() -> None:
    found = summary(methods=methods(confidence_hull=0.5, static_hull=0.1))
    assert replace(found, method="confidence_hull").instead() == ""


def test_the_numbers_are_those_at_the_budget_nearest_to_the_deployed_one() -> None:
    gain = {"mean": 0.011, "low": -0.001, "high": 0.023}
    other = {**gain, "mean": 0.5}
    found = summary(gains={"gain.quee_auto.static_hull": gain, "gain.quee_auto.oracle": other})
    assert found.numbers() == (
        "at budget 0.2: accuracy 88.9 % [87.9, 89.9], cost 0.21, +1.10 [-0.10, +2.30] points over fixed precisions averaged "
        "over budgets"
    )
    missed = [{**row, "budget_met": False} for row in found.points]
    assert "at budget 0.2, which it cannot meet: accuracy" in replace(found, points=missed).numbers()
    assert summary({}).numbers() == ""


def test_a_gain_is_told_by_re_divisions_where_there_are_some_and_never_by_a_single_budget() -> None:
    once, again = ({"mean": mean, "low": 0.0, "high": 0.03} for mean in (0.01, 0.02))
    key, at_budget = "gain.quee_auto.static_hull", {"quee_auto": {"0.2": {**once, "mean": 0.5}}}
    found = summary(gains={key: once}, difference_vs_static_hull=at_budget)
    assert found.gain() == once and "+1.00" in found.numbers()
    repeated = summary(gains={key: once}, resplits={key: again}, difference_vs_static_hull=at_budget)
    assert repeated.gain() == again and "+2.00" in repeated.numbers()
    assert "points over" not in summary(difference_vs_static_hull=at_budget).numbers()


def test_folds_groups_and_seeds_are_named() -> None:
    assert summary(seeds=3, folds=5, test_groups=40).tested() == (
        "1,000 test images, in 40 groups, in 5 folds, each tested by what was fitted without it, mean of 3 seeds"
    )
    assert summary().tested() == "1,000 test images"


def test_without_labels_the_labelled_images_are_spoken_of() -> None:
    row = {"method": "quee_auto", "budget": 0.2, "accuracy": 0.81, "low": 0.7, "high": 0.9}
    named = summary(labelled=(row,), measure="agreement", labelled_samples=1234)
    assert named.said_of_labelled() == "At budget 0.2 it is right on 81.0 % [70.0, 90.0] of 1,234 labelled images."
    assert summary(measure="agreement").said_of_labelled() == "There are no labels to tell accuracy by."
    assert summary().said_of_labelled() == ""


@pytest.mark.parametrize(
    ("cost", "said"),
    [(0.0041, "0.4 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.994, "99 %"), (1.0, "1 ×"), (None, "never")],
)
def test_a_cost_is_a_share_of_the_8_bit_network(cost: float | None, said: str) -> None:
    assert share(cost) == said


def test_as_much_as_the_8_bit_network_is_said_so() -> None:
    assert spent(1.0) == "for the 8-bit network's computation"
