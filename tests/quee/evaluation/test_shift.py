import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.evaluation.shift import LEVELS, SEVERITIES, _mixture, corrupted, imbalanced

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 14, 14, 1)).astype(np.uint8)


def distance(kind: str, severity: int) -> float:
    return float(np.abs(corrupted(IMAGES, kind, severity).astype(float) - IMAGES).mean())


@pytest.mark.parametrize("kind", LEVELS)
def test_a_corruption_keeps_shape_and_type_repeats_and_at_severity_0_does_nothing(kind: str) -> None:
    assert np.array_equal(corrupted(IMAGES, kind, 0), IMAGES)
    found = corrupted(IMAGES, kind, 3)
    assert (found.shape, found.dtype) == (IMAGES.shape, np.uint8)
    assert np.array_equal(found, corrupted(IMAGES, kind, 3))


@pytest.mark.parametrize("kind", ["noise", "blur", "contrast"])
def test_corruptions_grow_with_severity(kind: str) -> None:
    found = [distance(kind, severity) for severity in SEVERITIES]
    assert found == sorted(found)
    assert found[0] > 0


def test_contrast_keeps_the_mean_of_an_image() -> None:
    assert np.allclose(corrupted(IMAGES, "contrast", 5).mean(axis=(1, 2, 3)), IMAGES.mean(axis=(1, 2, 3)), atol=1)


def test_noise_of_an_image_does_not_depend_on_the_others() -> None:
    assert np.array_equal(corrupted(IMAGES[:2], "noise", 4), corrupted(IMAGES, "noise", 4)[:2])


@pytest.mark.parametrize(("kind", "severity"), [("fog", 1), ("noise", 6), ("blur", -1)])
def test_unknown_corruptions_and_severities_are_refused(kind: str, severity: int) -> None:
    with pytest.raises(ValueError, match="valid: noise, blur, contrast, rotation at 0 to 5"):
        corrupted(IMAGES, kind, severity)


@given(st.floats(1, 50), st.integers(2, 8))
def test_imbalance_weighs_classes_geometrically_and_samples_to_mean_one(ratio: float, classes: int) -> None:
    labels = np.arange(classes * 7) % classes
    weights = imbalanced(labels, classes, ratio)
    assert weights.mean() == pytest.approx(1)
    assert weights[labels == 0].sum() / weights[labels == classes - 1].sum() == pytest.approx(ratio)


@given(st.floats(0.2, 1.0))
def test_static_networks_are_mixed_to_cost_what_was_spent(spent: float) -> None:
    cost = np.array([0.2, 0.5, 1.0])
    weights = _mixture(cost, spent)
    assert weights.sum() == pytest.approx(1)
    assert weights @ cost == pytest.approx(spent)


def test_below_the_cheapest_static_network_that_one_is_compared() -> None:
    assert _mixture(np.array([0.2, 0.5]), 0.1).tolist() == [1, 0]
    assert _mixture(np.array([0.2, 0.5]), 0.9).tolist() == [0, 1]
