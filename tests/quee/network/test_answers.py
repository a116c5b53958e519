"""Tests by which answers are told from chance, and one order of outputs from another."""

import numpy as np
import pytest

from quee.network.answers import above_chance, find_order, more_often, recall

RANDOM = np.random.default_rng(1)
TWELVE = tuple(sorted(map(str, range(1, 13))))


def drawn(classes: int, count: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers of which a share is right beyond chance, and the labels."""
    truth = RANDOM.integers(0, classes, count)
    return np.where(RANDOM.random(count) < right, truth, RANDOM.integers(0, classes, count)), truth


def test_answers_better_than_shuffled_ones_are_above_chance() -> None:
    assert above_chance(*drawn(10, 200, 0.2))
    assert not above_chance(*drawn(10, 200, 0.0))
    answer, truth = drawn(10, 200, 0.5)
    assert not above_chance((answer + 1) % 10, truth)


def test_the_most_frequent_class_alone_is_not_above_chance() -> None:
    truth = (np.arange(300) < 15).astype(np.int64)
    assert not above_chance(np.zeros(300, np.int64), truth)
    answer = truth.copy()
    answer[:8] = 0
    assert above_chance(answer, truth)  # 97.7 % right, where always 0 is 95 %
    assert recall(answer, truth) == pytest.approx((7 / 15 + 1) / 2)


def test_mcnemars_test_counts_the_images_that_one_alone_gets_right() -> None:
    both = np.ones(50, bool)
    assert not more_often(both, both, 0.05)
    other = both.copy()
    other[:4] = False
    assert not more_often(both, other, 0.05)  # 4 to 0: p = 1/16
    other[4] = False
    assert more_often(both, other, 0.05) and not more_often(other, both, 0.5)


def test_a_known_order_is_named() -> None:
    answer, truth = drawn(12, 300, 0.6)
    stated = np.arange(12)
    numbers = np.array([TWELVE.index(str(n)) for n in range(1, 13)])  # the label of each output
    order = find_order(np.argsort(numbers)[answer], truth, TWELVE, stated)
    assert order is not None and order.words == "sorted by number (timm)"
    assert order.classes == tuple(map(str, range(1, 13)))
    assert order.found > 0.5 > order.stated
    assert find_order(answer, truth, TWELVE, stated) is None
    assert find_order(np.argsort(numbers)[answer], truth, TWELVE, numbers) is None


def test_an_order_of_its_own_is_found_with_many_images_and_not_made_up() -> None:
    answer, truth = drawn(12, 400, 0.8)
    turn = RANDOM.permutation(12)
    order = find_order(turn[answer], truth, TWELVE, np.arange(12))
    assert order is not None and order.words == "" and order.thin == ()
    assert np.array_equal(order.meant[turn], np.arange(12))
    assert order.classes == tuple(TWELVE[label] for label in order.meant)
    assert find_order(*drawn(12, 400, 0.0), TWELVE, np.arange(12)) is None


def test_classes_that_too_few_answers_stand_for_are_named() -> None:
    answer, truth = drawn(4, 200, 1.0)
    kept = np.concatenate([np.flatnonzero(truth < 3), np.flatnonzero(truth == 3)[:2]])
    order = find_order((answer[kept] + 1) % 4, truth[kept], ("a", "b", "c", "d"), np.arange(4))
    assert order is not None and order.thin == ("d",)


def test_two_classes_that_are_confused_are_no_other_order_and_two_that_are_swapped_are() -> None:
    answer, truth = drawn(6, 600, 0.95)
    names = tuple("abcdef")
    swapped = np.array([0, 1, 2, 4, 3, 5])
    order = find_order(swapped[answer], truth, names, np.arange(6))
    assert order is not None and order.classes == ("a", "b", "c", "e", "d", "f")
    confused = np.where(answer == 3, 4, np.where((answer == 4) & (RANDOM.random(600) < 0.7), 5, answer))
    assert find_order(confused, truth, names, np.arange(6)) is None
