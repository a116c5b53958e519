"""Ensembles of the heads visited."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache

from quee.cache.answers import with_ensembles
from quee.ensembles import Ensemble
from quee.policies.sweep import Setting
from quee.policies.ztw import RIDGE, along, exits_by_score, ztw


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
    ensemble = Ensemble.fit(training.log_probs_at(nodes, False), training.label, np.full(3, 1 / 3), RIDGE)
    answers = ensemble(test.log_probs_at(nodes, False)).argmax(axis=1)
    assert np.array_equal(found.errors["test"][:, -1], answers != test.label)
    assert not np.array_equal(found.errors["test"][:, -1], test.error[:, nodes[-1]])
    products = 4 * (1 + 2 + 3) * 32 * 32  # one per class and head at gates 1, 2 and 3
    assert found.costs["test"][0, -1] == pytest.approx(setting.spent(nodes)[-1] + products / 1e9)


def test_its_work_is_counted_once_where_the_exits_answer_with_ensembles_too() -> None:
    cache = small_cache(900)
    nodes = next(nodes for _, nodes, _ in Setting.of(cache, ("validation",)).uniform())
    spent = []
    for own in (cache, with_ensembles(cache)):
        found = along(Setting.of(own, ("validation", "test")), nodes, False)
        assert found is not None
        spent.append(found.costs["test"][0, -1])
    assert spent[1] == pytest.approx(spent[0])


def test_without_all_classes_it_is_left_out_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting.of(replace(small_cache(90, classes=7), log_probs=None), ("validation", "test"))
    assert not list(ztw(setting))
    assert "ztw: left out" in capsys.readouterr().err
