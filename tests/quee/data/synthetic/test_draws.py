"""Numbers of an image depend on its stream and number alone, and have the distributions that they claim."""

from statistics import NormalDist

import numpy as np
import pytest

from quee.data.synthetic.draws import Draws, quantiles


def all_of(draws: Draws) -> list[np.ndarray]:
    return [draws.uniform(-2, 3), draws.integer(5, 17, 4), draws.chance(0.25, 3), draws.normal(2, 5)]


WORDS = 1 + 4 + 3 + 3


def test_an_image_draws_the_same_in_any_batch_and_others_in_another_stream() -> None:
    whole = all_of(Draws("a", 0, 20, WORDS))
    for start, stop in ((0, 1), (7, 20)):
        for part, expected in zip(all_of(Draws("a", start, stop, WORDS)), whole, strict=True):
            assert np.array_equal(part, expected[start:stop])
    assert not np.array_equal(all_of(Draws("b", 0, 20, WORDS))[0], whole[0])


def test_more_numbers_than_bits_are_refused() -> None:
    draws = Draws("a", 0, 2, 3)
    draws.uniform(0, 1, 2)
    with pytest.raises(ValueError, match="an image has 3 words; 2 are used, 2 more are asked for"):
        draws.normal(5)


def test_distributions() -> None:
    draws = Draws("a", 0, 2000, 200)
    uniform = draws.uniform(-2, 3, 50)
    assert uniform.min() >= -2 and uniform.max() < 3 and abs(uniform.mean() - 0.5) < 0.02
    counts = np.bincount(draws.integer(0, 12, 50).ravel(), minlength=12)
    assert len(counts) == 12 and np.abs(counts / counts.sum() - 1 / 12).max() < 0.005
    assert abs(draws.chance(0.25, 50).mean() - 0.25) < 0.01
    normal = draws.normal(200)
    assert normal.shape == (2000, 200)
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01 and 4 < np.abs(normal).max() < 4.4


def test_rounding_hides_the_last_bits_of_the_c_librarys_logarithm() -> None:
    exact = np.array([NormalDist().inv_cdf((level + 0.5) / 65536) for level in range(32768, 65536)])
    from_boundary = np.abs(exact * 2**20 % 1 - 0.5) / 2**20
    assert from_boundary.min() > 1e-12 > 100 * np.spacing(exact.max())
    assert np.abs(quantiles()[32768:] - exact).max() <= 2**-21
