"""Accuracy lost to the float network: limits that hold for all points at once, also where few samples differ."""

import numpy as np
import pytest

from quee.evaluation.losses import accuracy_losses
from quee.intervals import ONE_SIDED, upper

REPEATS = 200


def world(samples: int, random: np.random.Generator, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors (n, P) and the float network's (n,): it errs on a tenth; a point is wrong on more, and right on some of these."""
    draw = random.random(samples)[:, None]
    floating = draw[:, 0] < 0.1
    return (draw < 0.1 + rates) & (draw > 0.3 * rates), floating


@pytest.mark.parametrize("samples", [180, 2000])
@pytest.mark.parametrize("grouped", [False, True], ids=["samples", "groups"])
def test_a_point_chosen_by_its_limit_keeps_it(samples: int, grouped: bool) -> None:
    rates = np.linspace(0.05, 0.0, 30)
    truth = 100 * 0.7 * rates
    random, broken, trials = np.random.default_rng(0), 0, 120
    for trial in range(trials):
        errors, floating = world(samples // (3 if grouped else 1), random, rates)
        groups = None
        if grouped:  # every sample three times: without groups three times as many would seem to be there
            errors, floating = np.repeat(errors, 3, axis=0), np.repeat(floating, 3)
            groups = np.repeat(np.arange(len(errors) // 3), 3)
        limit = accuracy_losses(errors, floating, REPEATS, trial, groups)[1]
        broken += bool((truth > limit + 1e-9).any())
    assert broken / trials <= 0.05 + 0.04  # two standard errors of the share


def test_losses_are_points_of_accuracy_and_their_limits_shrink_with_samples() -> None:
    random = np.random.default_rng(0)
    few, many = (world(n, random, np.array([0.04, 0.0])) for n in (300, 30_000))
    (lost, limit), (_, less) = (accuracy_losses(*found, REPEATS) for found in (few, many))
    assert lost == pytest.approx(100 * (few[0].mean(axis=0) - few[1].mean()))
    assert (limit > lost).all() and (less < limit).all()
    assert less[1] < 0.02 < limit[1], "that none of 300 samples differs does not show that no image does"


def test_a_bound_is_where_the_estimate_is_just_within_the_standard_errors_at_the_bound() -> None:
    """Of 20 pairs 4 are wrong with the first alone and 1 with the second alone: at a true difference of δ the variance of the
    estimate is (1 + 1 + 20 δ) / 20²."""
    lost = np.array([1.0] * 4 + [-1.0] + [0.0] * 15)[:, None]
    (bound,) = upper(lost, ONE_SIDED)
    assert bound - 3 / 20 == pytest.approx(ONE_SIDED * np.sqrt((2 + 20 * bound) / 20**2))
    assert upper(lost, ONE_SIDED, np.arange(20)) == pytest.approx(bound), "groups of one sample are samples"
    assert upper(np.zeros((300, 1)), ONE_SIDED)[0] == pytest.approx(2.7 / 300, rel=0.01)
    three = np.repeat(lost, 3, axis=0)
    assert upper(three, ONE_SIDED, np.repeat(np.arange(20), 3)) == pytest.approx(bound), "a group counts once"
