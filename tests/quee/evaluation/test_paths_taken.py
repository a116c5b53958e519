"""What test images take under a policy: the sweep's own errors and costs, and the parts of the cost add up."""

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.evaluation.paths_taken import PathsTaken, paths_taken, policy_and_sweep
from quee.evaluation.resplits import fit_policies
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting


@pytest.fixture(scope="module")
def setting() -> Setting:
    cache = small_cache()
    experiment = small_experiment(epochs=2)
    _, policies = fit_policies(cache, experiment, 0)
    found = Setting.of(cache, ("validation", "test"), experiment.policies, 20)
    return Setting(found.caches, found.costs, found.points, found.training, policies=policies, options=found.options)


@pytest.mark.parametrize("name", ["plan", "fitted_q", "auto", "confidence_hull"])
def test_the_images_are_those_of_the_sweep_at_its_point(name: str, setting: Setting) -> None:
    method, budget = METHODS[name], 0.3
    known = policy_and_sweep(setting, method)
    assert known is not None
    found, (_, sweep) = paths_taken(setting, *known, budget), known
    at = int(sweep.weights(budget)[0].argmax())
    assert np.array_equal(found.right, sweep.errors["test"][:, at] < 0.5)
    assert np.array_equal(found.cost, sweep.costs["test"][:, at])
    if sweep.nodes is not None:
        assert np.array_equal(found.node, sweep.nodes["test"][:, at])
    if found.answer is not None:
        assert np.array_equal(found.answer == found.label, found.right)
    spent = sum(sum(by.values()) for by in found.spent())
    assert 0 < spent < found.cost.mean(), "the rest is heads and decisions"


def test_the_easiest_image_costs_least_and_the_hardest_most(setting: Setting) -> None:
    known = policy_and_sweep(setting, METHODS["plan"])
    assert known is not None
    found = paths_taken(setting, *known, 0.3)
    for label in np.unique(found.label):
        easy, hard = found.extremes(int(label)) or (0, 0)
        own = found.cost[found.label == label]
        assert found.label[easy] == found.label[hard] == label
        assert (found.cost[easy], found.cost[hard]) == (own.min(), own.max())
    assert found.extremes(99) is None


def test_of_equal_costs_the_surest_image_is_the_easiest(setting: Setting) -> None:
    tree = setting.tree
    cost, sure = np.array([0.1, 0.1, 0.1]), np.array([0.5, 0.9, 0.2])
    ids, zero = np.arange(3), np.zeros(3, int)
    found = PathsTaken(tree, ids, zero, zero, cost, setting.costs.segment, np.ones(3, bool), sure)
    assert found.extremes(0) == (1, 2)
