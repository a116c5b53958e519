"""The feature cache as ensembles of the heads visited answer."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache, small_experiment

from quee.cache.answers import answered, fitted, with_ensembles
from quee.ensembles import Ensembles
from quee.evaluation.resplits import redivide, resplit
from quee.policies.base import Costs
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting

CACHE = small_cache(600)
ANSWERS = with_ensembles(CACHE)


def test_the_answers_are_those_of_every_nodes_ensemble() -> None:
    tree, found = CACHE.tree, ANSWERS.ensembles
    assert found is not None and CACHE.head_log_probs is not None
    for node in range(len(tree)):
        visited = CACHE.head_log_probs[:, tree.lineage(node)].astype(np.float64)
        heads = visited.shape[1]
        z = (found.weight[node, :heads, None] * visited).sum(axis=1) + found.bias[node]
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        assert np.array_equal(ANSWERS.prediction[:, node], p.argmax(axis=1))
        assert ANSWERS.p_label[:, node] == pytest.approx(p[np.arange(len(p)), CACHE.label], abs=1e-6)
        assert ANSWERS.features[:, node, 0] == pytest.approx(p.max(axis=1), abs=1e-6)
    assert np.array_equal(ANSWERS.error, ANSWERS.prediction != CACHE.label[:, None])
    assert np.array_equal(ANSWERS.features[:, :, 4:], CACHE.features[:, :, 4:])
    assert ANSWERS.head_log_probs is None
    assert not np.array_equal(ANSWERS.error, CACHE.error)


def test_static_paths_and_references_keep_their_own_heads() -> None:
    before, after = (Setting.of(cache, ("validation", "test")) for cache in (CACHE, ANSWERS))
    for name in ("static", "static_hull", "small_static"):
        for old, new in zip(METHODS[name].curves(before), METHODS[name].curves(after), strict=True):
            assert np.array_equal(old.errors["test"], new.errors["test"])
            assert np.array_equal(old.costs["test"], new.costs["test"])
    changed = [METHODS["confidence_hull"].main(setting).errors["test"].mean() for setting in (before, after)]
    assert changed[0] != changed[1]


def test_a_routed_sample_pays_one_product_per_class_and_head_at_every_gate() -> None:
    before, after = (Costs.of(CACHE.tree, cache.description) for cache in (CACHE, ANSWERS))
    assert np.array_equal(before.static, after.static)
    products = np.array([sum(4 * gate for gate in range(1, own + 1)) for own in CACHE.tree.gate])
    assert after.routed - before.routed == pytest.approx(products * 32 * 32 / 1e9)


def test_ensembles_are_fitted_on_the_predictor_split_alone() -> None:
    other = CACHE.split != "predictor"
    spoiled = replace(
        CACHE,
        label=np.where(other, (CACHE.label + 1) % 4, CACHE.label),
        head_log_probs=np.where(other[:, None, None], np.float16(-1), CACHE.head_log_probs),
    )
    kept, found = fitted(CACHE), fitted(spoiled)
    assert kept is not None and found is not None
    assert np.array_equal(kept.weight, found.weight) and np.array_equal(kept.bias, found.bias)
    moved = fitted(redivide(CACHE, 1))
    assert moved is not None and not np.array_equal(kept.weight, moved.weight)


def test_a_resplit_answers_as_its_own_division_says_and_without_the_setting_as_its_heads_do() -> None:
    auc = {}
    for wanted in (True, False):
        experiment = small_experiment(epochs=3)
        targets = experiment.targets.model_copy(update={"ensemble": wanted})
        rows = resplit(CACHE, experiment.model_copy(update={"targets": targets}), 0)
        auc[wanted] = {row["method"]: row["auc"] for row in rows}
    assert auc[True]["static_hull"] == auc[False]["static_hull"]
    assert auc[True]["confidence_hull"] != auc[False]["confidence_hull"]


@pytest.mark.parametrize(
    ("cache", "reason"),
    [
        (replace(small_cache(30, classes=120), head_log_probs=None), "of all 120 classes"),
        (replace(CACHE, split=np.where(CACHE.split == "predictor", "test", CACHE.split)), "in split 'predictor'"),
    ],
    ids=["most probable classes", "no predictor split"],
)
def test_where_they_cannot_be_fitted_they_are_left_out_and_it_says_so(cache, reason: str, capsys) -> None:
    found = with_ensembles(cache)
    assert found.ensembles is None and found.own_error is None
    assert np.array_equal(found.error, cache.error) and found.description == cache.description
    assert reason in capsys.readouterr().err
    assert with_ensembles(cache, wanted=False).ensembles is None
    assert not capsys.readouterr().err


def test_without_ensembles_a_cache_stays_as_it_is() -> None:
    found = answered(CACHE, None)
    assert found.features is CACHE.features and found.error is CACHE.error
    assert isinstance(ANSWERS.ensembles, Ensembles)
