"""The sections on inputs: paths with examples, extremes of classes, and what the computation is spent on."""

from dataclasses import replace

from quee.measure import AGREEMENT
from quee.report.inputs import Example, Inputs, Path, where_cost_goes, which_inputs

EASY = Example("a<b", "w4a4", 0.1, True, "data:image/webp;base64,AA")
HARD = replace(EASY, path="w4a4-w8a8", cost=0.6, right=False)
INPUTS = Inputs(
    "quee_auto", 0.2, 1234, 2, ["w4a4", "w8a8"],
    [Path("w4a4", 0.75, 0.1, 0.99, [EASY]), Path("w4a4-w8a8", 0.25, 0.6, 0.5, [HARD])],
    [(EASY, HARD)], 1, [{"w4a4": 0.1}, {"w8a8": 0.12}], 0.005,
)  # fmt: skip


def test_paths_are_shown_with_their_share_cost_and_accuracy_and_wrong_answers_are_framed() -> None:
    text = which_inputs(INPUTS)
    assert "quee_auto at a budget of 0.2 on 1,234 test images" in text
    assert (
        "<td>75.0 %</td><td>10 %</td><td>99.0 %</td>" in text and "<td>25.0 %</td><td>60 %</td><td>50.0 %</td>" in text
    )
    assert text.count('class="wrong"') == 2  # among the path's images, and as the hardest of its class
    assert "a&lt;b" in text and "a<b" not in text


def test_paths_that_few_images_take_are_folded_and_classes_left_out_are_counted() -> None:
    many = [Path(f"w4a4-{number}", 0.1 - number / 1000, 0.1, 1.0) for number in range(10)]
    text = which_inputs(replace(INPUTS, paths=many, classes=41))
    assert "2 more paths, taken by 18.3 % of the images" in text
    assert "Left out, to keep the page small: 40 more classes" in text
    assert "Left out" not in which_inputs(INPUTS)


def test_without_labels_answers_agree_or_differ() -> None:
    text = which_inputs(INPUTS, AGREEMENT)
    assert "differs from the float network's own answers" in text and "cost 0.6, differs" in text
    assert not any(word in text for word in ("ccuracy", "wrong answer", ", right"))


def test_what_is_spent_adds_up() -> None:
    text = where_cost_goes(INPUTS)
    assert "22 % of the 8-bit" in text
    assert [f"</em>{share} %</li>" in text for share in ("44.4", "53.3", "2.2")] == [True] * 3


def test_without_images_the_numbers_stay_and_without_inputs_nothing_is_shown() -> None:
    bare = replace(INPUTS, pairs=[], paths=[replace(path, examples=()) for path in INPUTS.paths])
    assert "<img" not in which_inputs(bare) and "75.0 %" in which_inputs(bare)
    assert which_inputs(None) == where_cost_goes(None) == ""
