"""The executor: groups run once per segment and precision, and other samples change no result."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quee.errors import UsageError
from quee.runtime import load_bundle
from quee.runtime.engines.graphs import GraphEngine
from quee.runtime.executor import Samples, draws


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_results_depend_neither_on_order_nor_on_company(classifier, images, data) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, 119), min_size=1, max_size=80)))  # some of them twice
    option = data.draw(st.sampled_from(["budget", "trade_off", "max_cost"]))
    value = data.draw(st.sampled_from([0.03, 0.15, 0.4]))
    whole = whole_of(classifier, images, option, value)
    found = classifier.route(images[0][rows], **{option: value})
    assert found.path == [whole.path[row] for row in rows]
    for name in ("label", "probabilities", "cost", "predicted_error"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)[rows], equal_nan=True), name


WHOLE: dict = {}


def whole_of(classifier, images, option: str, value: float):
    key = (id(classifier), option, value)
    if key not in WHOLE:
        WHOLE[key] = classifier.route(images[0][:120], **{option: value})
    return WHOLE[key]


class Counting:
    """An engine that records its calls."""

    def __init__(self, engine) -> None:
        self.engine, self.name, self.calls = engine, engine.name, []

    def run(self, segment, precision, state):
        self.calls.append((segment, str(precision), len(state)))
        return self.engine.run(segment, precision, state)

    def executed(self, precision):
        return self.engine.executed(precision)


def test_each_segment_runs_once_per_precision_on_all_its_samples(classifier, images) -> None:
    c, engine = classifier, Counting(classifier.engine)
    counted = c.on(engine)
    found = counted.route(images[0][:200], budget=0.4)
    assert set(Counter((s, p) for s, p, _ in engine.calls).values()) == {1}
    expected = Counter()
    for path in found.path:
        for segment, precision in enumerate(path.split("-"), 1):
            expected[segment, precision] += 1
    assert {(s, p): n for s, p, n in engine.calls} == dict(expected)


def test_more_samples_than_a_batch_run_in_several(classifier, images) -> None:
    c, engine = classifier, Counting(classifier.engine)
    counted = c.on(engine)
    counted.executor.batch = 32
    found = counted.route(images[0][:100], budget=0.4)
    assert max(n for _, _, n in engine.calls) <= 32
    assert found.path == classifier.route(images[0][:100], budget=0.4).path


def test_draws_are_uniform_and_each_sample_s_own() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 1, 8, 8)).astype(np.float32)
    u = draws(x)
    assert np.array_equal(u[5:9], draws(x[5:9]))
    assert np.array_equal(draws(x[::-1]), u[::-1])
    assert u.min() >= 0 and u.max() < 1 and len(np.unique(u)) == len(u)
    assert np.abs(np.sort(u) - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / np.sqrt(4000)  # Kolmogorov–Smirnov, 1 %
    near = x.copy()
    near[:, 0, 0, 0] = np.nextafter(near[:, 0, 0, 0], np.float32(9))
    assert abs(np.corrcoef(u, draws(near))[0, 1]) < 0.06


@pytest.mark.parametrize("name", ["openvino", "auto"])
def test_behind_warm_nothing_is_chosen_or_compiled_in_a_call(bundle, images, monkeypatch, tmp_path, name: str) -> None:
    pytest.importorskip("openvino")  # and without onnx the bundle would have no graphs
    pytest.importorskip("onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    warm = load_bundle(bundle, name).warm(4)
    of_auto = warm.engine.engines.values() if name == "auto" else [warm.engine]
    for engine in of_auto:
        if isinstance(engine, GraphEngine):
            monkeypatch.setattr(engine, "load", lambda *_: pytest.fail("compiled in a call"))
    monkeypatch.setattr("quee.runtime.engines.probe.least_seconds", lambda *_: pytest.fail("timed in a call"))
    for count in (1, 2, 3, 4):
        for budget in (0.02, 0.2, 1.0):
            warm.route(images[0][:count], budget=budget)


def test_under_a_limit_of_memory_answers_stay_as_they_are(bundle, images, monkeypatch, tmp_path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    whole = load_bundle(bundle, "openvino", threads=1).warm(8)
    few = load_bundle(bundle, "openvino", threads=1).warm(8, megabytes=40)
    for count in (1, 3, 8):
        for budget in (0.02, 0.2, 1.0):
            wanted, found = (own.route(images[0][:count], budget=budget) for own in (whole, few))
            assert np.array_equal(found.probabilities, wanted.probabilities) and found.path == wanted.path
    held = few.engine.held
    assert held.taken() <= held.limit == 40e6 and len(held.held) < len(whole.engine.held.held)
    with pytest.raises(UsageError, match="megabytes=0"):
        few.warm(8, megabytes=0)
    held = few.warm(8, megabytes=1, growing=True).engine.held
    assert held.limit == held.taken() > 1e6, "small batches would run padded in the largest graphs"
    sizes = [sorted(graph.size for graph in held.held if graph.step == step) for step in {g.step for g in held.held}]
    assert sizes and all(own == [1, 4, 8] or own == [1, 2, 8] for own in sizes)


def test_samples_with_and_without_a_limit_may_take_the_same_slots() -> None:
    samples = Samples(3, 2, 1)
    samples.admit(np.array([0, 1, 2]), np.zeros(3))
    assert samples.max_cost is None
    samples.admit(np.array([1]), np.zeros(1), 0.25)
    samples.admit(np.array([0]), np.zeros(1))
    assert samples.max_cost is not None and samples.max_cost.tolist() == [np.inf, 0.25, np.inf]
    samples.admit(np.array([1]), np.zeros(1))
    assert samples.max_cost.tolist() == [np.inf] * 3
