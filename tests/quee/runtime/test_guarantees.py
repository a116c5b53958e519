"""A bundle's statements about new data: intervals at operating points, and certified guarantees."""

from pathlib import Path

import numpy as np

from quee.export.bundle import guarantees_of
from quee.runtime import AdaptiveClassifier, load_bundle
from quee.runtime.manifest import NAME, seal
from quee.runtime.operating import Guarantee, Operating, Options, Point
from quee.work.io import read_json

CERTIFIED = {
    "delta": 0.1,
    "reference": "fp32",
    "samples": 300,
    "methods": {
        "quee_fitted_q": {
            "accuracy_loss": {
                "1": {
                    "conformal": None,
                    "learn_then_test": {
                        "knob": 7.0,
                        "lambda": 0.02,
                        "policy": "",
                        "test_accuracy": 0.9,
                        "test_cost": 0.3,
                        "validation_cost": 0.3,
                    },
                }
            },
            "budget": {"0.2": {"conformal": None, "learn_then_test": None}},
        }
    },
}


def test_every_operating_point_has_intervals_that_hold_what_validation_saw(classifier: AdaptiveClassifier) -> None:
    for point in classifier.points:
        assert point.cost_interval is not None
        assert point.accuracy_interval is not None
        assert point.cost_interval[0] <= point.cost <= point.cost_interval[1]
        assert point.accuracy_interval[0] <= point.accuracy <= point.accuracy_interval[1]


def test_what_to_expect_at_a_budget_is_the_mixture_that_serves_it(classifier: AdaptiveClassifier) -> None:
    budget = float(np.mean([classifier.points[0].cost, classifier.points[-1].cost]))
    expected = classifier.expect(budget=budget)
    assert expected.cost <= budget * (1 + 1e-9)
    assert expected.cost_interval is not None
    assert expected.cost_interval[0] <= expected.cost <= expected.cost_interval[1]
    assert expected.budget_met
    assert not classifier.expect(budget=1e-6).budget_met


def test_every_operating_point_says_what_it_loses_to_the_float_network(classifier: AdaptiveClassifier) -> None:
    limits = [point.accuracy_loss_limit for point in classifier.points]
    assert None not in limits
    assert all(p.accuracy_loss < p.accuracy_loss_limit for p in classifier.points)
    chosen = classifier.operating(Options(accuracy_loss=max(0.0, *limits)))
    assert chosen.met and chosen.low is classifier.points[0]
    expected = classifier.expect(accuracy_loss=100.0)
    assert (expected.accuracy_loss, expected.cost) == (classifier.points[0].accuracy_loss, classifier.points[0].cost)


def test_points_of_older_bundles_have_no_intervals() -> None:
    point = Point(0.1, 0, 0.3, 0.9)
    assert Operating(point, point, 0.0, True).expected.cost_interval is None


def test_what_could_not_be_certified_is_left_out() -> None:
    assert guarantees_of(CERTIFIED, "quee_fitted_q", "fitted_q") == [
        Guarantee("accuracy_loss", 1.0, "learn_then_test", 0.1, 300, 0.02, 0.3, "fp32", "fitted_q", 7.0)
    ]


def test_guarantees_travel_with_the_bundle(bundle: Path, tmp_path: Path) -> None:
    import shutil
    from dataclasses import asdict

    assert load_bundle(bundle).guarantees == []
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    guarantees = guarantees_of(CERTIFIED, "quee_fitted_q", "fitted_q")
    seal(copy, {**read_json(copy / NAME), "guarantees": [asdict(g) for g in guarantees]})
    assert load_bundle(copy).guarantees == guarantees
