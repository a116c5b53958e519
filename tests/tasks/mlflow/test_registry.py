"""Which version is champion, by the tags of both."""

import pytest

from tasks.mlflow.registry import compared

EARLIER = {
    "version": "1",
    "quee.validation.accuracy": "0.90",
    "quee.validation.low": "0.88",
    "quee.validation.budget": "0.2",
    "quee.validation.data": "a",
}
NOW = {"accuracy": "0.93", "accuracy at least": "0.91", "budget": "0.2", "quee.data": "a"}


def test_a_version_is_compared_with_one_of_an_earlier_release() -> None:
    moves, why = compared(EARLIER, NOW)
    assert moves
    assert "93.00 % against 90.00 % of version 1 on validation at budget 0.2, interval from 91.00 %" in why
    assert not compared({**NOW, "version": "2"}, {key: EARLIER[key] for key in EARLIER if key != "version"})[0]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"budget": "0.3"}, "the budget differ"),
        ({"quee.data": "b"}, "the validation samples differ"),
        ({"accuracy at least": "0.90"}, "not better by more than its interval"),
    ],
)
def test_the_champion_stays_unless_the_other_is_better_on_the_same_images_at_the_same_budget(
    changed: dict[str, str], why: str
) -> None:
    moves, said = compared(EARLIER, {**NOW, **changed})
    assert not moves
    assert why in said


def test_a_version_without_results_does_not_become_champion_of_others() -> None:
    assert compared(None, {}) == (True, "as there was none")
    assert not compared(EARLIER, {})[0]
    assert not compared({"version": "1"}, NOW)[0]
