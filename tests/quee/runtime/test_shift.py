"""A bundle under shift, executed."""

import numpy as np
import pytest

from quee.evaluation.shift import STREAM, outcome, shift_rows, static_predictions, streamed
from quee.runtime import AdaptiveClassifier


@pytest.fixture(scope="module")
def prepared(classifier: AdaptiveClassifier, images: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    fitted = [np.atleast_3d(np.asarray(classifier.transform.fit(Image.fromarray(i)))) for i in images[0][:60]]
    return np.stack(fitted), images[1][:60]


def test_what_is_measured_is_what_the_bundle_answers(classifier: AdaptiveClassifier, prepared, images) -> None:
    found = outcome(classifier, *prepared, [0.3])
    routed = classifier.route(images[0][:60], budget=0.3)
    assert np.array_equal(found.errors[:, 0], routed.label != prepared[1])
    assert np.array_equal(found.costs[:, 0], routed.cost)


def test_a_static_network_answers_as_its_own_model_does(classifier: AdaptiveClassifier, images) -> None:
    import torch

    x = classifier.prepare(images[0][:20])
    precision = classifier.tree.precisions[-1]
    with torch.inference_mode():
        expected = classifier.backbone.models[precision](torch.from_numpy(x)).argmax(dim=1).numpy()
    assert np.array_equal(static_predictions(classifier, x, len(classifier.tree.precisions) - 1), expected)


def test_rows_begin_with_clean_images_and_imbalance_needs_no_further_run(
    classifier: AdaptiveClassifier, prepared
) -> None:
    rows = list(shift_rows(classifier, *prepared, [0.1, 0.5], ["noise", "imbalance"], [1, 5], repeats=100))
    assert [(r["kind"], r["severity"]) for r in rows[::2]] == [
        ("none", 0), ("noise", 1), ("noise", 5), ("imbalance", 1), ("imbalance", 5)
    ]  # fmt: skip
    assert all(row["gap_low"] <= row["gap"] <= row["gap_high"] for row in rows)
    assert all(row["overspent"] == pytest.approx(row["cost"] / row["budget"] - 1) for row in rows)
    assert all(row["held_overspent"] == pytest.approx(row["held_cost"] / row["budget"] - 1) for row in rows)


def test_a_stream_of_the_study_starts_with_the_condition_and_counts_every_image(
    classifier: AdaptiveClassifier, prepared
) -> None:
    order = np.random.default_rng(0).integers(len(prepared[0]), size=STREAM)
    said, paid = streamed(classifier, prepared[0], order, 0.3)
    unsteered = classifier.route_prepared(classifier_input(classifier, prepared[0][order[:64]]), budget=0.3)
    assert said.shape == paid.shape == (STREAM,)
    assert np.array_equal(paid[:64], unsteered.cost), "nothing is known yet in the first block"


def classifier_input(classifier: AdaptiveClassifier, images: np.ndarray) -> np.ndarray:
    from quee.evaluation.shift import prepared as to_input

    return to_input(classifier, images)
