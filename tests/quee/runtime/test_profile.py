"""Measured time as the cost: times of paths by a profile, and budgets of time are kept."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from small_world import small_cache

from quee.errors import IntegrityError, UsageError
from quee.paths import PathTree
from quee.policies.base import Costs
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting
from quee.precision import Precision
from quee.runtime import load_bundle
from quee.runtime.classifier import TIMED
from quee.runtime.operating import Guarantee
from quee.runtime.profile import Profile, Timing, measure, profile_of, profile_path, read_profile
from quee.runtime.timed import FILE as VALIDATION
from quee.runtime.timed import read_validation, write_validation

TREE = PathTree(["w4a4", "w8a8"], segments=2)
MS = {"w4a4": 3.0, "w8a8": 1.0}
"""Milliseconds by precision; on a CPU fewer bits than 8 take longer."""


def profile(overhead: float = 1.0, decision: float = 0.01) -> Profile:
    """A batch of b takes `overhead` + b · MS milliseconds at every segment."""
    timings = [
        Timing(segment, name, "int8", batch, overhead + ms * batch)
        for segment in (1, 2)
        for name, ms in MS.items()
        for batch in (1, 8, 64)
    ]
    decisions = [Timing(1, "", "fp32", batch, decision * batch) for batch in (1, 8, 64)]
    return Profile("digest", "torch", "1", 1, "machine", (*timings, *decisions))


def test_cost_is_milliseconds_per_sample_at_a_batch_size() -> None:
    assert profile().cost(1, Precision("w8a8"), 1) == pytest.approx(2.0)
    assert profile().cost(1, Precision("w8a8"), 64) == pytest.approx(1 + 1 / 64)
    assert profile().cost(1, Precision("w8a8"), 32) == pytest.approx(1 + 1 / 32)  # on a straight line
    assert profile().cost(0, Precision("w8a8"), 8) == 0


def test_costs_of_a_path_are_those_of_its_segments_and_decisions() -> None:
    costs = profile(overhead=0).costs(TREE, 64)
    assert costs.static[TREE.node("w8a8-w4a4")] == pytest.approx(4.0)
    assert costs.routed[TREE.node("w8a8-w4a4")] == pytest.approx(4.01)
    assert costs.routed[TREE.node("w8a8")] == pytest.approx(1.01)


def test_expected_time_regroups_samples_by_what_they_run() -> None:
    shares = np.zeros(len(TREE))
    shares[[TREE.node("w8a8"), TREE.node("w8a8-w8a8")]] = 0.75, 0.25
    # One batch of 64 in segment 1, one of 16 in segment 2, 64 decisions.
    wanted = (1 + 64) + (1 + 16) + 0.64
    assert profile().expected(TREE, shares, 64) == pytest.approx(wanted / 64)


def test_the_static_network_is_the_unit() -> None:
    assert profile(overhead=0).unit(TREE, 64) == pytest.approx(2.0)


@pytest.fixture
def timed(bundle: Path, monkeypatch):
    """The fitted bundle with times under which w4a4 is the slower precision."""
    classifier = load_bundle(bundle)
    timings = [
        Timing(segment, name, "int8", batch, ms * batch)
        for segment in range(1, classifier.tree.segments + 1)
        for name, ms in MS.items()
        for batch in (1, 8, 64)
    ]
    decisions = [Timing(g, "", "fp32", b, 1e-3 * b) for g in range(1, classifier.tree.segments) for b in (1, 8, 64)]
    classifier.profile = profile_of(classifier.digest, classifier.engine, (*timings, *decisions))
    return classifier


def test_what_is_cheapest_is_another_path_in_milliseconds_than_in_bitflops(timed, images) -> None:
    assert all(path.startswith("w4a4") for path in timed.route(images[0][:64], budget=1e-3).path)
    routed = timed.route(images[0][:64], latency_ms=1e-3)
    assert all(path.startswith("w8a8") for path in routed.path)
    assert np.array_equal(routed.cost, timed.costs[routed.node])  # cost stays what it is called elsewhere
    own = timed.timed(64).route(images[0][:64], latency_ms=1e-3)
    assert np.array_equal(own.cost, routed.cost) and own.path == routed.path
    assert timed.timed(64).expect(latency_ms=500.0).budget_met  # milliseconds are not held to what costs may be


def test_images_per_second_are_milliseconds_per_image(timed, images) -> None:
    a, b = timed.route(images[0][:64], latency_ms=2.0), timed.route(images[0][:64], images_per_second=500.0)
    assert np.array_equal(a.node, b.node) and a.budget_met and b.budget_met
    assert not timed.route(images[0][:64], latency_ms=0.1).budget_met
    with pytest.raises(UsageError, match="a budget of time is that of one call's batch"):
        timed.expect(latency_ms=2.0)


def test_no_less_time_is_spent_where_there_is_more(timed, images) -> None:
    """A budget is a ceiling: of few validation samples none may show that more is worth it."""
    own = timed.timed(200)
    spent = [
        own.costs[timed.route(images[0][:200], latency_ms=milliseconds).node].mean()
        for milliseconds in (1.05, 2.0, 2.9)
    ]
    assert spent == sorted(spent) and spent[-1] <= 2.9


@pytest.mark.parametrize("options", [{"latency_ms": 0}, {"images_per_second": -1}, {"latency_ms": 1, "budget": 0.2}])
def test_bad_budgets_of_time_are_refused(timed, images, options) -> None:
    with pytest.raises(UsageError):
        timed.route(images[0][:2], **options)


def test_a_budget_of_time_takes_a_profile(timed, images) -> None:
    timed.profile = None
    with pytest.raises(UsageError, match="quee profile"):
        timed.route(images[0][:2], latency_ms=1.0)


ELSEWHERE = {
    "another engine": ({"engine": "openvino"}, "engine openvino"),
    "another version of the engine": ({"version": "0.1"}, r"engine torch 0\.1 \(here torch"),
    "another number of threads": ({"threads": 97}, r"threads 97 \(here"),
    "another CPU": ({"machine": "Z80"}, r"CPU Z80 \(here"),
    "another version of quee": ({"quee": "0.0.1"}, r"quee 0\.0\.1 \(here"),
    "a version of quee that did not say which": ({"quee": ""}, r"quee unknown \(here"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_profile_measured_elsewhere_is_refused_with_what_differs(timed, images, where: str) -> None:
    changes, said = ELSEWHERE[where]
    timed.profile = replace(timed.profile, **changes)
    with pytest.raises(UsageError, match=f"measured elsewhere: .*{said}"):
        timed.route(images[0][:2], latency_ms=1.0)
    timed.route(images[0][:2], budget=0.3)  # which takes no profile


def test_a_profile_says_with_how_many_threads_it_was_measured(classifier) -> None:
    import torch

    assert profile_of("", classifier.engine, ()).threads == torch.get_num_threads()


def test_what_is_measured_is_every_segment_precision_and_batch(classifier) -> None:
    x = np.zeros((2, 1, 8, 8), np.float32)
    names = len(classifier.view.names)
    timings = measure(classifier.engine, classifier.policy, names, x, (1, 4), repeats=1)
    found = {(t.segment, t.precision, t.batch) for t in timings}
    segments = range(1, classifier.tree.segments + 1)
    assert found == {(s, p, b) for s in segments for p in ("w4a4", "w8a8") for b in (1, 4)} | {
        (g, "", b) for g in segments[:-1] for b in (1, 4)
    }
    assert all(t.milliseconds > 0 for t in timings)


@pytest.mark.slow
def test_quee_profile_writes_beside_the_bundle(bundle: Path) -> None:
    argv = ["profile", str(bundle), "--engine", "torch", "--threads", "1", "--batch", "1,2", "--repeats", "1", "--json"]
    code = "from quee.cli.main import main; import sys; main(sys.argv[1:])"
    found = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    path = profile_path(bundle)
    try:
        assert json.loads(found.stdout)["path"] == str(path)
        classifier = load_bundle(bundle)
        assert classifier.profile is not None and classifier.profile.engine == "torch"
        path.write_text(path.read_text().replace(classifier.digest, "0" * 64))
        earlier = load_bundle(bundle)
        assert earlier.profile is None
        with pytest.raises(UsageError, match="quee profile"):
            earlier.predict(np.zeros((1, 8, 8), np.uint8), latency_ms=1.0)
        path.write_text("{}")
        with pytest.raises(IntegrityError, match="quee profile"):
            read_profile(bundle, "")
        assert load_bundle(bundle, profiled=False).profile is None
    finally:
        path.unlink()


def test_policies_under_measured_time_are_kept_for_few_sizes_of_batch_and_one_profile(timed) -> None:
    first = timed.timed(1)
    assert timed.timed(1) is first
    for batch in range(2, TIMED + 2):
        timed.timed(batch)
    assert len(timed._timed) == TIMED
    again = timed.timed(1)
    assert again is not first
    assert [p.cost for p in again.points] == [p.cost for p in first.points]
    slower = tuple(replace(t, milliseconds=2 * t.milliseconds) for t in timed.profile.timings)
    timed.profile = replace(timed.profile, timings=slower)
    assert timed.timed(1).points[0].cost == pytest.approx(2 * first.points[0].cost)


def test_nothing_is_said_of_accuracy_losses_under_a_budget_of_time(timed) -> None:
    under, said = timed.timed(8), timed.points[0]
    guarantee = Guarantee(
        "accuracy_loss", 1.0, "learn_then_test", 0.1, 500, said.trade_off, said.cost, "fp32", said.policy
    )
    timed.description = {**timed.description, "guarantees": [asdict(replace(guarantee, knob=said.trade_off))]}
    assert timed.guarantees and not under.guarantees and not timed.timed(16).guarantees
    with pytest.raises(UsageError, match="Under a budget of time it never is"):
        under.expect(accuracy_loss=1.0)
    with pytest.raises(UsageError, match="no accuracy loss against the float network is certified"):
        timed.timed(16).expect(accuracy_loss=1.0, certified=True)


def test_callers_of_several_threads_get_one_policy_per_size(timed) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(timed.timed, [3, 5] * 6))
    assert len({id(classifier) for classifier in found}) == 2


def test_of_more_validation_samples_than_fit_a_draw_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = small_cache(400).of("validation")
    policy = METHODS["confidence_hull"].of(Setting({"validation": cache}, Costs.of(cache.tree, cache.description)))
    write_validation(tmp_path, cache, policy)
    whole = read_validation(tmp_path)
    assert np.array_equal(whole["error"], cache.error)
    monkeypatch.setattr("quee.runtime.timed.LARGEST", whole["features"].nbytes // 4)
    write_validation(tmp_path, cache, policy)
    first = (tmp_path / VALIDATION).read_bytes()
    drawn = read_validation(tmp_path)
    assert len(drawn["error"]) == len(cache.error) // 4 == len(drawn["features"])
    rows = {row.tobytes() for row in whole["features"]}
    assert all(row.tobytes() in rows for row in drawn["features"])
    last = whole["features"][len(whole["features"]) // 2 :]
    late = {row.tobytes() for row in last}
    assert 0.3 < np.mean([row.tobytes() in late for row in drawn["features"]]) < 0.7  # not the first of them
    write_validation(tmp_path, cache, policy)
    assert (tmp_path / VALIDATION).read_bytes() == first
