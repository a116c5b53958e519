"""The classifier: accepted inputs, refusals, explanations, and use by several threads."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer, log_loss
from sklearn.utils.validation import check_is_fitted

from quee.ensembles import as_cached
from quee.errors import UsageError
from quee.runtime import Options, load_bundle
from quee.runtime.explanation import Explanation


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 8 kB that decodes to 64 million pixels."""
    file = BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG")
    return file.getvalue()


def test_an_image_is_the_same_in_whatever_form_it_comes(classifier, images, tmp_path) -> None:
    pixels = images[0][:6]
    paths = [tmp_path / f"{i}.png" for i in range(len(pixels))]
    for path, one in zip(paths, pixels, strict=True):
        path.write_bytes(png(one))
    forms = {
        "channel": pixels[..., None],
        "three channels": np.repeat(pixels[..., None], 3, axis=3),
        "four channels": np.concatenate([np.repeat(pixels[..., None], 3, axis=3), pixels[..., None] * 0 + 255], axis=3),
        "list of arrays": list(pixels),
        "PIL": [Image.fromarray(p) for p in pixels],
        "RGB": [Image.fromarray(p).convert("RGB") for p in pixels],
        "opened, not loaded": [Image.open(path) for path in paths],
        "paths": paths,
        "names": [str(path) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
        "mixed": [
            pixels[0],
            paths[1],
            str(paths[2]),
            png(pixels[3]),
            Image.fromarray(pixels[4]),
            bytearray(png(pixels[5])),
        ],
        "not contiguous": np.repeat(pixels, 2, axis=0)[::2],
    }
    expected = classifier.route(pixels)
    for name, form in forms.items():
        found = classifier.route(form)
        assert np.array_equal(found.probabilities, expected.probabilities), name
        assert found.path == expected.path, name


def test_arrays_of_another_size_are_resized_as_files_are(classifier) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(3, 20, 14, 3), dtype=np.uint8)
    by_array = classifier.prepare(pixels)
    by_file = classifier.prepare([png(p) for p in pixels])
    assert by_array.shape == (3, 1, 8, 8) and np.array_equal(by_array, by_file)


NOISE = np.random.default_rng(0).integers(256, size=(32, 32), dtype=np.uint8)
BAD_IMAGES = {
    "floats": (np.zeros((2, 8, 8)), "float64.*valid: uint8"),
    "NaN": (np.full((2, 8, 8), np.nan, np.float32), "NaN"),
    "one image": (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
    "five axes": (np.zeros((1, 1, 8, 8, 1), np.uint8), "shape"),
    "two channels": (np.zeros((1, 8, 8, 2), np.uint8), "1, 3 or 4 channels"),
    "no pixels": (np.zeros((1, 0, 8), np.uint8), "shape"),
    "none": ([], "no images"),
    "empty array": (np.zeros((0, 8, 8), np.uint8), "no images"),
    "a path alone": ("a.png", "give an array or a list"),
    "a number alone": (3, "give an array or a list"),
    "no file": (["no-such.png"], "no such image file: no-such.png"),
    "a number": ([np.zeros((8, 8), np.uint8), 3], "image 1 is a int"),
    "float in a list": ([np.zeros((8, 8), np.uint8), np.zeros((8, 8))], "image 1 have.*float64"),
    "no image": ([b"not an image"], "image 0: not a readable"),
    "cut short": ([png(NOISE)[:-400]], "image 0: does not decode"),
    "bomb": ([bomb()], "8000×8000 pixels"),
    "huge array": (np.broadcast_to(np.uint8(0), (1, 8000, 8000)), "8000×8000 pixels"),
    "huge PIL image": ([Image.new("1", (8000, 8000))], "image 0: 8000×8000 pixels"),
}


@pytest.mark.parametrize("which", BAD_IMAGES)
def test_what_is_no_image_is_refused_by_name(classifier, which) -> None:
    bad, reason = BAD_IMAGES[which]
    with pytest.raises(UsageError, match=reason) as caught:
        classifier.predict(bad)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_status == (
        4 if which in ("no image", "cut short") else 2
    )  # a damaged file, or wrong usage


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((1, 1, 8, 9), np.float32), r"valid: float32 \(n, 1, 8, 8\)"),
        (np.zeros((1, 1, 8, 8)), "float64"),
        (np.zeros((0, 1, 8, 8), np.float32), "no images"),
        (
            np.stack([np.zeros((1, 8, 8), np.float32), np.full((1, 8, 8), np.inf, np.float32)]),
            "prepared image 1.*finite",
        ),
        ([1, 2], "type list"),
    ],
)
def test_prepared_images_that_do_not_fit_are_refused(classifier, bad, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        classifier.route_prepared(bad)


@pytest.mark.parametrize("name", ["budget", "trade_off", "max_cost", "accuracy_loss"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "0.2", True, None, 0.0])
def test_options_out_of_range_are_refused_by_name(classifier, images, name, value) -> None:
    if value is None or (value == 0.0 and name in ("trade_off", "accuracy_loss") and value is not True):
        assert len(classifier.predict(images[0][:1], **{name: value})) == 1
        return
    with pytest.raises(ValueError, match=f"{name}={value!r}: give a finite number"):
        classifier.predict(images[0][:1], **{name: value})


def test_an_unknown_keyword_is_refused_with_the_valid_ones_the_nearest_first(classifier, images) -> None:
    for call in (classifier.predict, classifier.predict_proba, classifier.route, classifier.explain):
        with pytest.raises(
            UsageError, match=r"unknown option 'bugdet' \(did you mean 'budget'\?\); valid: budget, .*pixels"
        ):
            call(images[0][:1], bugdet=1)
    with pytest.raises(UsageError, match="unknown option 'max_costs'.*; valid: max_cost, ") as raised:
        classifier.expect(max_costs=1)
    assert "pixels" not in str(raised.value)
    with pytest.raises(UsageError, match="unknown option 'x'"):
        classifier.stream(x=[])


@pytest.mark.parametrize("path", [3, None, b"bundle"])
def test_what_is_no_path_is_no_bundle(path) -> None:
    with pytest.raises(UsageError, match=f"load_bundle: {path!r} is no path; give the folder of a bundle"):
        load_bundle(path)


def test_a_budget_above_all_points_spends_what_the_dearest_does(classifier, images) -> None:
    found = classifier.route(images[0][:20], budget=100.0)
    dearest = classifier.points[classifier.points[-1].taken]
    assert found.budget_met
    assert found.path == classifier.route(images[0][:20], trade_off=dearest.trade_off).path


def test_a_mixture_serves_its_share_at_each_point(classifier, images) -> None:
    points = classifier.points  # the first that is worth its cost beside the one before it
    high = next(point for i, point in enumerate(points) if i and point.taken == i)
    low = points[points[points.index(high) - 1].taken]
    at = classifier.operating(Options(budget=0.25 * low.cost + 0.75 * high.cost))
    assert (at.low, at.high) == (low, high) and at.share == pytest.approx(0.75)
    x = classifier.prepare(images[0])
    start = classifier.start(x, Options(budget=0.25 * low.cost + 0.75 * high.cost))
    assert np.mean(start.trade_off == high.trade_off) == pytest.approx(0.75, abs=0.06)


def test_it_is_a_fitted_classifier_to_scikit_learn(classifier, images) -> None:
    x, y = images[0][:50], images[1][:50]
    assert is_classifier(classifier)
    check_is_fitted(classifier)
    proba, label = classifier.predict_proba(x), classifier.predict(x)
    assert proba.shape == (50, len(classifier.classes_)) and proba.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(classifier.classes_[proba.argmax(axis=1)], label)
    assert classifier.score(x, y) == np.mean(label == y) == get_scorer("accuracy")(classifier, x, y)
    assert get_scorer("neg_log_loss")(classifier, x, y) == pytest.approx(-log_loss(y, proba, labels=range(10)))
    assert "10 classes" in repr(classifier)


def test_loading_does_not_wait_for_scikit_learn() -> None:
    code = "import sys, quee; quee.load_bundle; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_an_explanation_tells_every_gate_of_the_path(classifier, images) -> None:
    x = images[0][:80]
    routed, told = classifier.route(x, budget=0.4), classifier.explain(x, budget=0.4)
    last = classifier.tree.segments
    assert {len(e.gates) for e in told} == {p.count("-") + 1 for p in routed.path} and len({*routed.path}) > 1
    for row, e in enumerate(told):
        assert isinstance(e, Explanation)
        assert (e.path, e.cost, e.budget_met) == (routed.path[row], routed.cost[row], True)
        assert "-".join(g.precision for g in e.gates) == e.path
        assert [g.gate for g in e.gates] == list(range(1, len(e.gates) + 1))
        assert [g.cost for g in e.gates] == sorted(g.cost for g in e.gates) and e.gates[-1].cost == e.cost
        assert (e.gates[-1].label, e.gates[-1].probability) == (e.label, pytest.approx(e.probability))
        assert (e.label, e.class_name) == (routed.label[row], classifier.classes[routed.label[row]])
        assert e.gates[-1].class_name == e.class_name
        for gate in e.gates:
            assert (gate.predicted_error is None) == (gate.gate == last)
            assert gate.predicted_error is None or 0 < gate.predicted_error < 1
    assert told[0].static["w8a8"] == pytest.approx(1, abs=0.05) and told[0].static["fp32"] == pytest.approx(16, abs=0.5)


def test_the_predicted_error_is_what_the_predictor_says_of_leaving_there(classifier, images) -> None:
    x = images[0][:30]
    found = classifier.route(x, budget=0.4)
    precisions = classifier.tree.precisions
    begin = [str(precision) for precision in precisions].index(found.path[0].partition("-")[0])
    step = classifier.engine.run(1, precisions[begin], classifier.prepare(x))
    prefix = np.tile(np.eye(len(precisions), dtype=np.float32)[begin], (30, 1))
    nodes, kept = np.full(30, classifier.tree.children[-1, begin]), as_cached(step.log_probs)[:, None]
    _, features = classifier.executor.ensembles(nodes, kept, step.features)
    own = classifier.policy.plan.predictors.predict(1, np.concatenate([features, prefix], axis=1))[:, 0]
    first = np.array([path.startswith(str(precisions[begin])) for path in found.path])
    assert np.array_equal(found.predicted_error[first, 0], own[first])
    depth = np.array([path.count("-") + 1 for path in found.path])
    visited = np.arange(1, classifier.tree.segments) <= depth[:, None]
    assert np.array_equal(np.isfinite(found.predicted_error), visited)


def test_threads_share_it(classifier, images) -> None:
    budgets = [0.05, 0.1, 0.2, 0.4] * 4
    alone = [classifier.route(images[0][i : i + 60], budget=b) for i, b in enumerate(budgets)]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda ib: classifier.route(images[0][ib[0] : ib[0] + 60], budget=ib[1]), enumerate(budgets))
        )
    for a, b in zip(alone, found, strict=True):
        assert a.path == b.path and np.array_equal(a.probabilities, b.probabilities)
