"""`auto` and `confidence_by_gate` where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.errors import IntegrityError
from quee.evaluation.resplits import fit_policies
from quee.policies.auto import Auto
from quee.policies.base import Basis, Policy
from quee.policies.confidence_by_gate import ConfidenceByGate, Way, chosen_share
from quee.policies.files import read_policy
from quee.policies.registry import METHODS, deployable
from quee.policies.sweep import Setting, routed_sweep
from quee.work.io import write_tensors


def world(cache, samples_of: str = "test"):
    """The basis, the learned policies and the setting of a cache."""
    basis, learned = fit_policies(cache, small_experiment(epochs=30))
    setting = Setting.of(cache, ("validation", samples_of), points=40)
    return basis, replace(setting, predictors=basis.predictors, policies=learned)


@pytest.fixture(scope="module")
def plain():
    return world(small_cache(600))


def test_facts_name_a_policy_for_every_budget_and_judge_the_choice_on_samples_it_was_not_made_on(plain) -> None:
    auto = plain[1].policies["auto"]
    facts = auto.facts()
    assert set(facts["budgets"].values()) <= set(deployable()) - {"auto"}
    assert set(auto.members) <= set(facts["budgets"].values())
    assert facts["default"] in facts["accuracy"]
    assert 0.5 < facts["accuracy"]["auto"] <= 1


def test_a_learned_policy_is_taken_where_it_knows_what_confidence_cannot() -> None:
    """Half of the samples are hopeless: no path is right. Only an embedding says which; confidence is low for both."""
    cache = small_cache(1800, seed=2)
    hopeless = np.random.default_rng(1).random(len(cache)) < 0.5
    features = cache.features.copy()
    features[:, :, 4] = hopeless[:, None]
    features[hopeless, :, :4] = cache.features[~hopeless][:, :, :4][np.arange(hopeless.sum()) % (~hopeless).sum()]
    error = cache.error | hopeless[:, None]
    no_numbers = {"log_probs": None, "head_log_probs": None}  # so that nobody answers otherwise than the nodes
    _, setting = world(replace(cache, error=error, features=features, **no_numbers))
    auto = setting.policies["auto"]
    learned = {"plan", "fitted_q"} & set(auto.members)
    assert learned
    assert sum(len(auto.members[name].points) for name in learned) > len(auto.knobs(0)) / 2


def test_every_point_costs_and_decides_as_the_policy_that_it_names(plain) -> None:
    auto, setting = plain[1].policies["auto"], plain[1]
    sweep = routed_sweep("auto", setting, auto)
    assert len(sweep.policies) == len(sweep.values) == len(auto.knobs(0))
    for name, member in auto.members.items():
        own = routed_sweep(name, replace(setting, points=60), member.policy)
        assert own.knobs is not None
        at = [int(np.flatnonzero(own.knobs == knob)[0]) for knob in member.knob]
        assert np.array_equal(sweep.costs["test"][:, member.points], own.costs["test"][:, at])
        assert np.array_equal(sweep.errors["test"][:, member.points], own.errors["test"][:, at])
        assert {sweep.policies[point] for point in member.points} == {name}
    rising = sweep.costs["validation"].mean(axis=0)
    assert (np.diff(rising) > 0).all()
    assert (auto.costs.routed >= max(member.policy.costs.routed[0] for member in auto.members.values())).any()


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("points", None, "no_such_policy"),
        ("points", lambda a: a + 1, "numbered"),
        ("knob", lambda a: a - 1e9, "knob"),
        ("knob", lambda a: a[:-1], "number"),
        ("first", lambda a: a + 99, "first|begins"),
    ],
)
def test_points_that_do_not_fit_are_refused(plain, tmp_path, key: str, change, reason: str) -> None:
    basis, setting = plain
    arrays = setting.policies["auto"].arrays()
    name = min(arrays).partition(".")[0]
    if change is None:
        arrays[f"no_such_policy.{key}"] = arrays.pop(f"{name}.{key}")
    else:
        arrays[f"{name}.{key}"] = change(arrays[f"{name}.{key}"])
    write_tensors(tmp_path / "auto.safetensors", arrays)
    with pytest.raises(IntegrityError, match=reason):
        read_policy(tmp_path, "auto", basis)


def test_a_policy_that_predicts_is_refused_without_predictors(plain) -> None:
    basis, setting = plain
    plan = METHODS["plan"].of(setting)
    assert isinstance(plan, Policy)
    arrays = {"plan.points": np.array([0]), "plan.knob": np.array([0.1]), "plan.first": np.array([0])}
    assert not Auto.load(basis, arrays).fault()
    with pytest.raises(IntegrityError, match="predictors"):
        Auto.load(Basis(basis.tree, basis.description), arrays)


def test_one_threshold_per_gate_beats_a_common_one_where_gates_differ_in_confidence() -> None:
    """The first gate is twice as sure as it should be, so a common threshold lets too much leave there."""
    cache = small_cache(3000, seed=1)
    features = cache.features.copy()
    early = cache.tree.nodes_at(1)
    features[:, early, 0] = 1 - (1 - features[:, early, 0]) / 4
    setting = Setting.of(replace(cache, features=features), ("validation", "test"))
    own = routed_sweep("by gate", setting, ConfidenceByGate.fit(setting))
    common = METHODS["confidence_hull"].main(setting)
    budgets = np.linspace(0.3, 0.7, 9)
    mean = [1 - np.mean([(s.errors["test"] @ s.weights(b)[0]).mean() for b in budgets]) for s in (own, common)]
    assert mean[0] > mean[1]


def test_thresholds_fitted_to_noise_are_shrunk_to_the_common_one() -> None:
    shares = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        score, error = random.random((90, 3)), (random.random((90, 4)) < 0.3).astype(float)
        way = Way((0, 0, 0, 0), score, error, np.array([0.1, 0.2, 0.3, 0.4]))
        shares.append(chosen_share([way], random.permutation(90) % 3))
    assert np.mean(shares) < 0.6


def test_moving_thresholds_never_loses_on_the_samples_they_are_fitted_to() -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        score, error = random.random((200, 3)), (random.random((200, 4)) < random.random(4)).astype(float)
        way = Way((0, 0, 0, 0), score, error, np.cumsum(random.random(4)))
        start = way.rank(0.5)
        for price in (0.01, 0.3, 3.0):
            found = way.moved(start, price)
            assert way.loss(way.threshold(found), price) <= way.loss(way.threshold(start), price) + 1e-9
