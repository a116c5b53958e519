"""Ensembles of the heads visited."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache

from quee.policies.sweep import Setting
from quee.policies.ztw import Ensemble, along, exits_by_score, ztw


def heads(noise: list[float], n: int = 3000, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (n, heads, classes) of independent heads, and labels (n,); a head's logits have the given noise."""
    random = np.random.default_rng(seed)
    label = random.integers(classes, size=n)
    true = 2.0 * np.eye(classes)[label][:, None]  # the log-likelihood of a class is 2 x / noise² + a constant
    deviation = np.array(noise)[:, None]
    logits = 2 * (true + deviation * random.normal(size=(n, len(noise), classes))) / deviation**2
    return logits - np.log(np.exp(logits).sum(axis=2, keepdims=True)), label


def test_independent_calibrated_heads_are_multiplied() -> None:
    """Bayes' rule for independent evidence: the logits add up, so every weight is 1."""
    log_probs, label = heads([1.0, 1.5])
    found = Ensemble.fit(log_probs, label)
    assert found.weight == pytest.approx(1, abs=0.1)
    assert np.abs(found.bias).max() < 0.15
    test, wanted = heads([1.0, 1.5], seed=1)
    right = [(p.argmax(axis=1) == wanted).mean() for p in (found(test), test[:, 0], test[:, 1])]
    assert right[0] > max(right[1:]) + 0.02


def test_an_overconfident_head_is_tempered_and_a_useless_one_is_dropped() -> None:
    log_probs, label = heads([1.0, 1.0])
    random = np.random.default_rng(2)
    three = 3 * log_probs[:, 0]
    sure = three - np.log(np.exp(three).sum(axis=1, keepdims=True))
    found = Ensemble.fit(np.stack([sure, log_probs[random.permutation(len(label)), 1]], axis=1), label)
    assert found.weight[0] == pytest.approx(1 / 3, abs=0.05)
    assert found.weight[1] == pytest.approx(0, abs=0.05)
    assert (found.weight >= 0).all()


def test_probabilities_sum_to_one() -> None:
    log_probs, label = heads([1.0, 1.0, 2.0], n=200)
    assert np.exp(Ensemble.fit(log_probs, label)(log_probs)).sum(axis=1) == pytest.approx(1)


def test_a_sample_exits_at_the_first_gate_that_is_sure_enough() -> None:
    score = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.1, 0.2, 0.3]])
    assert exits_by_score(score, np.array([0.5, np.inf])).tolist() == [[0, 2], [1, 2], [2, 2]]


def test_the_answer_is_the_ensembles_and_its_work_is_counted() -> None:
    cache = small_cache(900)
    setting = Setting.of(cache, ("validation", "test"))
    nodes = next(nodes for _, nodes, _ in setting.uniform())
    found = along(setting, nodes, False)
    assert found is not None
    training, test = cache.of("predictor"), setting.caches["test"]
    ensemble = Ensemble.fit(training.log_probs_at(nodes, False), training.label)
    answers = ensemble(test.log_probs_at(nodes, False)).argmax(axis=1)
    assert np.array_equal(found.errors["test"][:, -1], answers != test.label)
    assert not np.array_equal(found.errors["test"][:, -1], test.error[:, nodes[-1]])
    products = 4 * (1 + 2 + 3) * 32 * 32  # one per class and head at gates 1, 2 and 3
    assert found.costs["test"][0, -1] == pytest.approx(setting.spent(nodes)[-1] + products / 1e9)


def test_without_all_classes_it_is_left_out_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting.of(replace(small_cache(90, classes=7), log_probs=None), ("validation", "test"))
    assert not list(ztw(setting))
    assert "ztw: left out" in capsys.readouterr().err
