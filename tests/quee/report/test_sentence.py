"""The sentence says what the numbers say, and claims no more where they are missing or say otherwise."""

from typing import Any

import pytest

from quee.report.sentence import Summary, share, spent

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
    "half a point": (
        summary(drops={"0.5": 0.22, "1.0": 0.1}),
        f"Within half a point of the float network (90.6 %), for 22 % {EIGHT}",
    ),
    "one point": (
        summary(drops={"0.5": None, "1.0": 0.0423}),
        f"Within one point of the float network (90.6 %), for 4.2 % {EIGHT}",
    ),
    "neither": (
        summary(drops=NEVER),
        f"1.7 points below the float network (90.6 %), for 21 % {EIGHT[:-1]}: nearer it does not come.",
    ),
    "dearer than 8 bits": (
        summary(drops={"0.5": 4.05}),
        "Within half a point of the float network (90.6 %), for 4 times the 8-bit network's computation.",
    ),
    "no float network": (
        summary(fp32_accuracy=None),
        f"It is right on 88.9 % of the test images, for 21 % {EIGHT}",
    ),
    "agreement": (
        summary(drops={"0.5": 0.3}, measure="agreement", fp32_accuracy=1.0),
        f"Agrees with the float network on 99.5 % of the images or more, for 30 % {EIGHT}",
    ),
    "agreement out of reach": (
        summary(drops=NEVER, measure="agreement", fp32_accuracy=1.0),
        f"It agrees with the float network on 88.9 % of the test images, for 21 % {EIGHT}",
    ),
    "nothing": (summary({}, drops=NEVER), "No operating point of it was measured."),
}


@pytest.mark.parametrize("case", SAID)
def test_the_sentence_says_what_is_reached_and_what_it_costs(case: str) -> None:
    found, said = SAID[case]
    assert found.sentence() == said


def test_the_numbers_are_those_at_the_budget_nearest_to_the_deployed_one() -> None:
    gain = {"mean": 0.011, "low": -0.001, "high": 0.023}
    found = summary(gains={"gain.quee_auto.static_hull": gain, "gain.quee_plan.static_hull": {}})
    assert found.numbers() == (
        "at budget 0.2: accuracy 88.9 % [87.9, 89.9], cost 0.21, +1.10 [-0.10, +2.30] points over fixed precisions"
    )
    again = summary(gains={}, resplits={"gain.quee_auto.static_hull": {**gain, "mean": 0.005}})
    assert "+0.50 [" in again.numbers(), "re-divisions count where there are some"
    assert summary({}).numbers() == ""


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
