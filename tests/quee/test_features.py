"""State features: the measures of uncertainty equal their definitions in any batch."""

import numpy as np
import pytest
from scipy.special import log_softmax, xlogy

from quee.features import UNCERTAINTY, state_features


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_features_are_what_their_definitions_say(classes: int) -> None:
    logits = np.random.default_rng(0).normal(scale=8, size=(50, classes)).astype(np.float32)
    logits[0], logits[1, :2] = 0.0, 99.0  # all alike, and two alike
    log_probs, features = state_features(logits, np.ones((50, 3), np.float32))
    wanted = log_softmax(logits.astype(np.float64), axis=1)
    p = np.exp(wanted)
    top, squared = np.sort(p, axis=1), p**2 / (p**2).sum(axis=1, keepdims=True)
    measures = [top[:, -1], -(p * wanted).sum(axis=1), top[:, -1] - top[:, -2], -xlogy(squared, squared).sum(axis=1)]
    assert np.allclose(log_probs, wanted, rtol=0, atol=1e-12)
    assert np.allclose(features[:, : len(UNCERTAINTY)], np.stack(measures, axis=1), rtol=0, atol=1e-6)
    assert (features[:, len(UNCERTAINTY) :] == 1).all()


@pytest.mark.parametrize("classes", [2, 47])
def test_features_of_a_sample_do_not_depend_on_the_batch(classes: int) -> None:
    logits = np.random.default_rng(1).normal(scale=4, size=(33, classes)).astype(np.float32)
    log_probs, features = state_features(logits)
    for row in range(len(logits)):
        alone = state_features(logits[row : row + 1])
        assert np.array_equal(alone[0][0], log_probs[row]) and np.array_equal(alone[1][0], features[row])
