"""What the report says of the bundle image by image: what answers a request for a small loss, and the float network beside it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment, with_float

from quee.evaluation.measured import float_errors
from quee.evaluation.near import DROPS
from quee.evaluation.paths_taken import PathsTaken, paths_taken, policy_and_sweep
from quee.evaluation.resplits import fit_policies
from quee.export.bundle import operating_points
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting, Sweep
from quee.runtime.operating import OperatingPoints, Options
from tasks.examples import Examples, against_float_of, asked_of

CLASSES = [f"class {label}" for label in range(10)]


@pytest.fixture(scope="module")
def setting() -> Setting:
    cache, experiment = with_float(small_cache()), small_experiment(epochs=2)
    _, policies = fit_policies(cache, experiment, 0)
    return replace(Setting.of(cache, ("validation", "test"), experiment.policies, 20), policies=policies)


@pytest.fixture(scope="module")
def deployed(setting: Setting) -> tuple[Sweep, PathsTaken]:
    known = policy_and_sweep(setting, METHODS["plan"])
    assert known is not None
    return known[1], paths_taken(setting, *known, 0.3)


def test_a_small_loss_is_answered_as_the_bundle_does(setting: Setting, deployed: tuple[Sweep, PathsTaken]) -> None:
    sweep, _ = deployed
    points = operating_points(sweep, "plan", float_errors(setting, "validation"))
    served = OperatingPoints(setting.tree, setting.costs.routed, points, 0.3).choose(Options(accuracy_loss=min(DROPS)))
    found = asked_of(setting, sweep)
    assert found is not None
    assert (found.shown, found.limit, found.loss) == (served.met, served.low.accuracy_loss_limit, min(DROPS))
    (at,) = [point for point in sweep.order if sweep.costs["validation"][:, point].mean() == served.low.cost]
    assert found.cost == sweep.costs["test"][:, at].mean() and found.accuracy == 1 - sweep.errors["test"][:, at].mean()


def test_classes_add_up_to_the_images_and_the_examples_are_of_those_that_differ(
    setting: Setting, deployed: tuple[Sweep, PathsTaken]
) -> None:
    _, taken = deployed
    found = against_float_of(setting, taken, CLASSES, None)
    floating = float_errors(setting)
    assert found is not None and floating is not None
    assert sum(row["images"] for row in found.classes) == len(taken)
    rights = [sum(row["right"][side] for row in found.classes) for side in (0, 1)]
    assert rights == [(~floating).sum(), taken.right.sum()]
    gained, lost = found.changed
    assert (gained, lost) == ((taken.right & floating).sum(), (~taken.right & ~floating).sum()) != (0, 0)
    assert (found.lost, found.gained) == ([], []), "no image is to be shown"
    shown = against_float_of(setting, taken, CLASSES, Examples(taken, CLASSES, None))
    assert shown is not None
    assert [example.right for example in shown.lost] == [False] * min(lost, 8)
    assert [example.right for example in shown.gained] == [True] * min(gained, 8)
    for example in shown.lost:
        assert example.answer.startswith("answered class ") and not example.answer.endswith(example.label)


@pytest.mark.parametrize(
    "of", [asked_of, lambda s, sweep: against_float_of(s, sweep, CLASSES, None)], ids=["loss", "images"]
)
def test_without_the_float_network_nothing_is_said(
    setting: Setting, deployed: tuple[Sweep, PathsTaken], of: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.examples.FLOAT", "none")
    monkeypatch.setattr("quee.evaluation.measured.FLOAT", "none")
    assert of(setting, deployed[0]) is None


def test_every_class_without_images_is_left_out(setting: Setting, deployed: tuple[Sweep, PathsTaken]) -> None:
    found = against_float_of(setting, deployed[1], CLASSES, None)
    assert found is not None
    assert {row["class"] for row in found.classes} == {CLASSES[label] for label in np.unique(deployed[1].label)}
