from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quee.policies.baselines import BASELINES
from small_world import small_cache

from quee.policies.base import Costs
from quee.policies.eero import exit_shares, share_thresholds
from quee.policies.jei_gate import fit_logistic
from quee.policies.patience import exits_by_agreement
from quee.policies.sweep import Setting, Sweep, hull_of


@pytest.fixture(scope="module")
def setting() -> Setting:
    cache = small_cache(1200)
    caches = {split: cache.of(split) for split in ("validation", "test")}
    return Setting(caches, Costs.of(cache.tree, cache.description), 100, cache.of("predictor"))


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_baseline_spends_between_the_cheapest_exit_and_the_dearest_path(setting, name: str) -> None:
    for sweep in BASELINES[name](setting):
        for split in ("validation", "test"):
            assert sweep.errors[split].shape == sweep.costs[split].shape == (400, len(sweep.values))
            assert set(np.unique(sweep.errors[split])) <= {0, 1}
            assert sweep.costs[split].min() >= setting.costs.segment[0] - 1e-12
            assert sweep.costs[split].max() <= 1.01


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_baseline_looks_at_test_labels_to_choose(setting, name: str) -> None:
    blind = replace(setting.caches["test"], error=~setting.caches["test"].error)
    other = replace(setting, caches={**setting.caches, "test": blind})
    for one, two in zip(BASELINES[name](setting), BASELINES[name](other), strict=True):
        assert np.array_equal(one.costs["test"], two.costs["test"])
        assert np.array_equal(one.errors["test"], 1 - two.errors["test"])


@pytest.mark.parametrize("name", ["eero", "jei_gate"])
def test_exits_that_look_beat_the_same_exits_drawn_at_random(setting, name: str) -> None:
    uniform = np.concatenate([nodes for _, nodes, references in setting.uniform() if not references])
    errors = {split: setting.errors(split)[:, uniform] for split in setting.splits}
    drawn = hull_of("drawn", [Sweep.at("", errors, setting.costs.static[uniform])])
    (sweep,) = BASELINES[name](setting)
    cost, accuracy = sweep.costs["test"].mean(axis=0), 1 - sweep.errors["test"].mean(axis=0)
    random = np.interp(cost, drawn.costs["test"].mean(axis=0), 1 - drawn.errors["test"].mean(axis=0))
    assert (accuracy >= random - 1e-4).all()
    assert (accuracy - random).max() > 0.02


def test_learned_gates_need_samples_to_learn_from(setting) -> None:
    assert [sweep.name for sweep in BASELINES["jei_gate"](setting)] == ["jei_gate"]
    assert not list(BASELINES["jei_gate"](replace(setting, training=None)))


def test_patience_counts_agreements_in_a_row() -> None:
    prediction = np.array([[1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 1, 2], [3, 3, 1, 1]])
    assert exits_by_agreement(prediction, 1).tolist() == [1, 2, 3, 1]
    assert exits_by_agreement(prediction, 2).tolist() == [2, 3, 3, 3]
    assert exits_by_agreement(prediction, 9).tolist() == [3, 3, 3, 3]


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0.1, 1.2))
def test_exponential_weights_keep_to_the_budget(risk: list[float], budget: float) -> None:
    cost = np.array([0.1, 0.3, 0.6, 1.0])
    shares = exit_shares(np.array(risk), cost, budget, 0.02)
    assert shares.sum() == pytest.approx(1)
    assert shares @ cost <= max(budget, 0.1) + 1e-6


def test_without_a_binding_budget_weight_goes_to_the_least_risk() -> None:
    assert exit_shares(np.array([0.5, 0.1, 0.3]), np.array([0.1, 0.2, 0.3]), 1.0, 0.01).argmax() == 1


def test_thresholds_let_the_shares_leave() -> None:
    score = np.random.default_rng(0).random((1000, 3))
    first, second = share_thresholds(score, np.array([0.3, 0.5, 0.2]))
    leaves = score[:, 0] >= first
    assert leaves.mean() == pytest.approx(0.3)
    assert (~leaves & (score[:, 1] >= second)).mean() == pytest.approx(0.5)


def test_logistic_regressions_side_by_side_find_what_made_the_targets() -> None:
    random = np.random.default_rng(0)
    x, w = random.normal(size=(20000, 2)), np.array([[0.5, -1.0], [1.0, 2.0], [-0.5, 0.0]])
    y = (random.random((20000, 2)) < 1 / (1 + np.exp(-(w[0] + x @ w[1:])))).astype(float)
    assert np.allclose(fit_logistic(x, y), w, atol=0.1)


def test_a_gate_whose_targets_are_all_equal_says_so() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    w = fit_logistic(x, np.stack([np.ones(50), np.zeros(50)], axis=1))
    said = w[0] + x @ w[1:]
    assert (said[:, 0] > 0).all()
    assert (said[:, 1] < 0).all()
