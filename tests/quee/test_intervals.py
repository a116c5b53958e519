"""Groups of samples in intervals: they count as what is independent, and change nothing where each has one sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.evaluation.draws import Draws, paired
from quee.groups import divides, numbered, sums
from quee.intervals import half_width, interval, resamples

seeds = st.integers(0, 2**31 - 1)


def test_groups_are_numbered_by_first_appearance_and_summed_in_that_order() -> None:
    groups = np.array([7, -3, 7, 0])
    assert numbered(groups).tolist() == [0, 1, 0, 2]
    assert sums(np.array([1.0, 2.0, 4.0, 8.0]), groups).tolist() == [5.0, 2.0, 8.0]
    assert divides(groups) and not divides(np.array([3, 1, 2])) and not divides(None)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 60))
def test_groups_of_one_sample_give_the_intervals_of_samples(seed: int, samples: int) -> None:
    random = np.random.default_rng(seed)
    groups, values = random.permutation(10 * samples)[:samples], random.normal(size=samples)
    assert np.array_equal(resamples(samples, 20, seed), resamples(samples, 20, seed, groups))
    assert half_width(values, 1.96) == half_width(values, 1.96, groups)
    gain = random.normal(size=(1, samples, 3))
    alone, grouped = paired(gain, Draws.of(samples, 1, 30, seed)), paired(gain, Draws.of(samples, 1, 30, seed, groups))
    for own, same in zip(alone, grouped, strict=True):
        assert own == pytest.approx(same, rel=1e-9, abs=1e-12)  # the last bit is that of the CPU's matrix products


@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.integers(0, 9), min_size=2, max_size=50))
def test_the_bootstrap_draws_groups_whole(seed: int, own: list[int]) -> None:
    groups = np.array(own)
    weights = resamples(len(groups), 15, seed, groups)
    assert np.allclose(weights.sum(axis=1), 1)
    for group in np.unique(groups):
        assert (np.ptp(weights[:, groups == group], axis=1) == 0).all()


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 8))
def test_copies_in_a_group_widen_an_interval_as_their_number_says(seed: int, copies: int) -> None:
    """n copies of each of m values say no more than m values: the width is that of m, and √n that of n · m samples."""
    values = np.random.default_rng(seed).normal(size=40)
    many, groups = np.repeat(values, copies), np.repeat(np.arange(40), copies)
    alone = half_width(many, 1.96)
    assert half_width(many, 1.96, groups) == pytest.approx(half_width(values, 1.96))
    assert half_width(many, 1.96, groups) == pytest.approx(
        alone * np.sqrt(copies * (many.size - 1) / many.size * 40 / 39)
    )
    by_sample, by_group = (interval(resamples(many.size, 800, seed, own) @ many) for own in (None, groups))
    ratio = (by_group[1] - by_group[0]) / (by_sample[1] - by_sample[0])
    assert ratio == pytest.approx(np.sqrt(copies), rel=0.2)


def test_the_intervals_cover_the_mean_of_new_groups_as_often_as_they_say() -> None:
    covered = {"groups": 0, "samples": 0}
    for seed in range(300):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 9, 60)
        groups = np.repeat(np.arange(60), sizes)
        values = np.repeat(random.normal(size=60), sizes) + 0.5 * random.normal(size=len(groups))
        for name, own in (("groups", groups), ("samples", None)):
            covered[name] += abs(values.mean()) <= half_width(values, 1.96, own)
    assert covered["groups"] >= 0.91 * 300
    assert covered["samples"] <= 0.8 * 300


def test_one_group_tells_nothing() -> None:
    assert half_width(np.array([1.0, 2.0, 3.0]), 1.96, np.zeros(3)) == float("inf")
    assert half_width(np.array([1.0]), 1.96) == float("inf")
