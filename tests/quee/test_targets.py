import numpy as np
import pytest
from small_world import small_cache

from quee.paths import PathTree
from quee.settings.paths import Considered
from quee.targets import ClusterTargets, calibration_error, cluster_rows, future_errors, spread


def test_one_cluster_predicts_the_mean_error_of_every_path() -> None:
    cache = small_cache().of("predictor")
    targets = ClusterTargets(1, shrinkage=4.0).fit(cache)
    for gate in (1, 2):
        expected = future_errors(cache, gate).mean(axis=0)
        assert np.allclose(targets.predict(cache, gate), expected[None])


def test_spread_values_are_dense_rows_with_nothing_where_no_path_is_considered() -> None:
    tree = PathTree(["w3a3", "w4a4", "w8a8"], 5, Considered(sample=6, max_switches=2))
    values = np.random.default_rng(0).normal(size=(7, len(tree.continuations(3)[0])))
    ends, dense = tree.extensions(3), spread(tree, 3, values)
    assert dense.shape == (7 * len(ends), ends.shape[1])
    assert np.array_equal(np.isfinite(dense), np.tile(ends >= 0, (7, 1)))
    assert np.array_equal(dense.reshape(7, *ends.shape)[:, ends >= 0], values)
    some = np.array([0, 3, len(dense) - 1])
    assert np.array_equal(spread(tree, 3, values, some), dense[some], equal_nan=True)


def test_shrinkage_pulls_every_cluster_toward_the_mean() -> None:
    cache = small_cache().of("predictor")
    mean = future_errors(cache, 1).mean(axis=0)
    distance = [
        np.abs(ClusterTargets(8, shrinkage=a).fit(cache).predict(cache, 1) - mean).mean() for a in (0.0, 4.0, 1e6)
    ]
    assert distance[0] > distance[1] > distance[2]
    assert distance[2] == pytest.approx(0, abs=1e-4)


def test_pooled_clusters_are_shared_and_keep_means_per_prefix() -> None:
    cache = small_cache().of("predictor")
    targets = ClusterTargets(4, per_node=0).fit(cache)
    first, second = (targets.nodes_[int(n)] for n in cache.tree.nodes_at(1))
    assert np.array_equal(first.centres, second.centres)
    assert not np.array_equal(first.probability, second.probability)


def test_fitting_twice_gives_the_same_clusters() -> None:
    cache = small_cache().of("predictor")
    first, second = (ClusterTargets(6).fit(cache).predict(cache, 1) for _ in range(2))
    assert np.array_equal(first, second)


def test_calibration_error_of_perfect_and_of_wrong_probabilities() -> None:
    assert calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
    assert calibration_error(np.array([0.9, 0.9]), np.array([0.0, 0.0])) == pytest.approx(0.9)
    assert calibration_error(np.array([np.nan, 0.5]), np.array([1.0, 1.0])) == pytest.approx(0.5)


def test_the_rows_of_clusters_hold_every_sample_once_and_fall_in_probability() -> None:
    cache = small_cache().of("predictor")
    rows = cluster_rows(ClusterTargets(6).fit(cache), cache)
    for node in {row["node"] for row in rows}:
        own = [row for row in rows if row["node"] == node]
        assert sum(row["samples"] for row in own) == len(cache)
        assert [row["rank"] for row in own] == list(range(len(own)))
        assert [row["p_label"] for row in own] == sorted((row["p_label"] for row in own), reverse=True)
        weighted = sum(row["error"] * row["samples"] for row in own) / len(cache)
        assert weighted == pytest.approx(cache.error[:, node].mean())
    assert {row["gate"] for row in rows} == {1, 2}
