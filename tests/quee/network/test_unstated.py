"""What a checkpoint does not state is found by measuring: one small network for each unknown, trained under another value."""

from typing import Any

import numpy as np
import pytest
from unstated_images import Patterns, brightness, colour, shape, size, texture, trained

from quee.errors import UsageError
from quee.network.base import SegmentedBackbone
from quee.network.sizes import resized
from quee.network.unstated import UNKNOWNS, Answers, Measured, better_size, measure

SAME = (0.5, 0.5, 0.5)
BGR = {"channel_order": "bgr", "mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}
UNSTATED: dict[str, tuple[Any, dict[str, Any]]] = {
    "values from -1 to 1": (brightness, {"mean": SAME, "std": SAME}),
    "values from 0 to 255": (brightness, {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}),
    "BGR": (colour, BGR),
    "crop": (size, {"crop_pct": 0.875}),
    "both sides resized": (shape, {"resize": "both"}),
    "bicubic": (texture, {"interpolation": "bicubic"}),
}


def asked(backbone: SegmentedBackbone, patterns: Patterns, **more: Any) -> Measured:
    answers = Answers(backbone, patterns.pixels, patterns.labels, np.arange(6))
    return measure(answers, patterns.classes, **more)


@pytest.mark.parametrize("case", UNSTATED)
def test_a_value_that_is_not_the_default_is_found(case: str) -> None:
    kind, preprocessing = UNSTATED[case]
    backbone = trained(kind, preprocessing, steps=70 if kind is texture else 40)
    found = asked(backbone, Patterns(kind, 200, seed=2))
    assert found.found == preprocessing
    assert found.before < 0.5 < 0.7 < found.after
    assert not found.close and found.order is None
    (taken,) = [row for row in found.rows if row.verdict == "taken"]
    assert all(
        row.difference is not None and row.difference[0] <= 0
        for row in found.rows
        if row.unknown == taken.unknown and row.verdict.startswith("clearly worse")
    )


@pytest.fixture(scope="module")
def plain() -> SegmentedBackbone:
    """A network that was trained with the default preprocessing."""
    return trained(brightness, {})


def test_defaults_that_are_right_are_kept_and_so_is_everything_that_makes_no_difference(
    plain: SegmentedBackbone,
) -> None:
    found = asked(plain, Patterns(brightness, 200, seed=2))
    assert found.found == {} and found.close == {} and found.order is None
    assert found.before == found.after > 0.9
    assert {row.unknown: row.value for row in found.rows if row.difference is None} == {
        "mean and deviation": "ImageNet's",
        "channels": "RGB",
        "crop": "100 % of the shorter side",
        "interpolation": "bilinear",
    }
    (last,) = [row for row in found.rows if row.unknown == "interpolation"]
    assert last.verdict == "others make the same images"


def test_what_is_stated_is_not_measured_and_never_changed() -> None:
    backbone = trained(brightness, {"mean": SAME, "std": SAME})
    patterns = Patterns(brightness, 200, seed=2)
    stated = frozenset(key for unknown in UNKNOWNS for key in unknown.keys)
    found = asked(backbone, patterns, stated=stated)
    assert found.rows == [] and found.found == {} and found.before == found.after < 0.5
    told = asked(backbone, patterns, stated=stated, all_=True)
    assert told.found == {}
    assert told.beaten.startswith(
        "mean and deviation: ImageNet's is stated, and 0.5, so values from -1 to 1 is clearly better"
    )


def declared(backbone: SegmentedBackbone, side: int) -> SegmentedBackbone:
    """The network as a file without a size is read: for images of a usual side."""
    found = resized(backbone, side)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def discs() -> SegmentedBackbone:
    """A network that was trained on discs in images of 12 pixels."""
    return trained(size, {})


@pytest.mark.parametrize("usual", [12, 48])
def test_the_size_of_the_training_is_found_whatever_is_usual(discs: SegmentedBackbone, usual: int) -> None:
    patterns = Patterns(size, 200, seed=2)
    answers = Answers(declared(discs, usual), patterns.pixels, patterns.labels, np.arange(6), (12, 24, 48, 96))
    found = measure(answers, patterns.classes)
    assert found.preprocessing.size == (12, 12) and found.after > 0.7
    rows = {row.value: row for row in found.rows if row.unknown == "size of images"}
    assert rows["12×12"].verdict == ("taken" if usual == 48 else "kept")
    assert rows["24×24"].verdict in ("clearly worse", "clearly worse by its loss", "no better") and "96×96" not in rows
    assert (found.before == found.after) == (usual == 12)
    told = better_size(Answers(declared(discs, usual), patterns.pixels, patterns.labels, np.arange(6), (12, 24, 48)))
    assert told is None if usual == 12 else told is not None and "with images of 48×48 pixels" in told


def test_a_stated_size_is_never_changed_and_told_where_another_is_clearly_better(discs: SegmentedBackbone) -> None:
    patterns = Patterns(size, 200, seed=2)
    stated = frozenset({"size", *(key for unknown in UNKNOWNS for key in unknown.keys)})
    answers = Answers(declared(discs, 24), patterns.pixels, patterns.labels, np.arange(6), (12, 24))
    found = measure(answers, patterns.classes, stated=stated, all_=True)
    assert found.preprocessing.size == (24, 24) and found.found == {}
    assert found.beaten.startswith("size of images: 24×24 is stated, and 12×12 is clearly better")


def test_two_values_of_one_kind_are_no_question(plain: SegmentedBackbone) -> None:
    rows = asked(plain, Patterns(brightness, 200, seed=2)).rows
    assert {row.verdict for row in rows if row.value in ("CLIP's", "CIFAR-10's")} <= {
        "as good",
        "clearly worse",
        "clearly worse by its loss",
    }


def test_the_order_of_the_outputs_is_found_together_with_the_preprocessing(plain: SegmentedBackbone) -> None:
    patterns = Patterns(brightness, 240, seed=2)
    patterns.labels = (patterns.labels + 2) % 6
    found = asked(plain, patterns)
    assert found.found == {}
    assert found.order is not None and found.order.words == ""
    assert found.order.classes == ("c", "d", "e", "f", "a", "b")
    assert found.before < 0.1 and found.after > 0.9
    with pytest.raises(UsageError, match="no answers above chance"):
        asked(plain, patterns, ordered=True)


def test_folders_sorted_as_text_for_a_network_that_counts_numbers_are_found(plain: SegmentedBackbone) -> None:
    patterns, counted = Patterns(brightness, 200, seed=2), ("1", "2", "3", "4", "5", "10")
    sorted_as_text = tuple(sorted(counted))
    patterns.labels = np.array([sorted_as_text.index(counted[output]) for output in patterns.labels])
    answers = Answers(plain, patterns.pixels, patterns.labels, np.arange(6))
    found = measure(answers, sorted_as_text)
    assert found.order is not None
    assert (found.order.words, found.order.classes) == ("sorted by number (timm)", counted)
    assert found.before < 0.3 and found.after > 0.9 and found.found == {}


def test_answers_that_are_not_above_chance_are_refused(plain: SegmentedBackbone) -> None:
    patterns = Patterns(brightness, 200, seed=2)
    patterns.labels = np.random.default_rng(0).permutation(patterns.labels)
    with pytest.raises(UsageError, match=r"no answers above chance: \d+\.\d % of 200 images are right"):
        asked(plain, patterns)


def test_the_same_images_give_the_same_table(plain: SegmentedBackbone) -> None:
    patterns = Patterns(brightness, 150, seed=3)
    assert asked(plain, patterns) == asked(plain, patterns)
