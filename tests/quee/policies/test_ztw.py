"""Ensembles of the heads visited."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache

from quee.cache.answers import with_ensembles
from quee.cache.read import FeatureCache
from quee.ensembles import Ensemble
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting, Sweep
from quee.policies.ztw import RIDGE, Ztw, each_precision
from quee.work.io import read_tensors, write_tensors


def alone(cache: FeatureCache) -> tuple[Setting, list[int], Sweep]:
    """The setting of a cache, the nodes of its first precision, and `ztw` there."""
    setting = Setting.of(cache, ("validation", "test"))
    nodes = next(nodes for _, nodes, _ in setting.uniform())
    return setting, nodes, next(each_precision(setting))


def test_a_sample_exits_at_the_first_gate_that_is_sure_enough() -> None:
    setting, nodes, found = alone(small_cache(900))
    training, test = setting.training, setting.caches["test"]
    assert training is not None
    heads, seen = training.heads_at(nodes), test.heads_at(nodes)
    assert heads is not None and seen is not None
    answers = []
    for gate in range(1, 4):
        known = heads[:, :gate].astype(np.float64)
        answers.append(Ensemble.fit(known, training.label, np.full(gate, 1 / gate), RIDGE)(seen[:, :gate]))
    score = np.exp(np.stack(answers, axis=1).max(axis=2))
    wrong = np.stack(answers, axis=1).argmax(axis=2) != test.label[:, None]
    for point, threshold in enumerate(found.values):
        sure = score >= threshold
        sure[:, -1] = True
        expected = wrong[np.arange(len(test)), sure.argmax(axis=1)]
        assert np.array_equal(found.errors["test"][:, point], expected)
    assert not np.array_equal(found.errors["test"][:, -1], test.error[:, nodes[-1]])


def test_its_work_is_counted() -> None:
    setting, nodes, found = alone(small_cache(900))
    products = 4 * (1 + 2 + 3) * 32 * 32  # one per class and head at gates 1, 2 and 3
    assert found.costs["test"][0, -1] == pytest.approx(setting.spent(nodes)[-1] + products / 1e9)


def test_its_work_is_counted_once_where_the_exits_answer_with_ensembles_too() -> None:
    cache = small_cache(900)
    spent = [alone(own)[2].costs["test"][0, -1] for own in (cache, with_ensembles(cache))]
    assert spent[1] == pytest.approx(spent[0])


def test_without_all_classes_it_is_left_out_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    without = replace(small_cache(90, classes=7), log_probs=None, head_log_probs=None)
    setting = Setting.of(without, ("validation", "test"))
    assert not list(METHODS["ztw"].curves(setting)) and not list(each_precision(setting))
    assert "ztw: left out" in capsys.readouterr().err


def test_its_ensembles_are_fitted_once_for_all_divisions_of_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting.of(small_cache(300), ("validation",))
    first = Ztw.fit(setting)
    monkeypatch.setattr(Ensemble, "fit", None)
    half = setting.caches["validation"].select(np.arange(50))
    again = Ztw.fit(replace(setting, caches={"validation": half}))
    assert first is not None and again is not None
    assert np.array_equal(first.ensembles.weight, again.ensembles.weight)


def test_weights_that_do_not_fit_the_tree_are_a_fault(tmp_path) -> None:
    setting = Setting.of(small_cache(300), ("validation",))
    found = Ztw.fit(setting)
    assert found is not None and not found.fault()
    write_tensors(tmp_path / "ztw.safetensors", found.arrays())
    arrays = read_tensors(tmp_path / "ztw.safetensors")
    assert "weight" in Ztw.on(setting, arrays | {"weight": arrays["weight"][:, :-1]}).fault()
    assert "negative" in Ztw.on(setting, arrays | {"weight": arrays["weight"] - 1}).fault()
