"""Patience: what it carries along a path."""

from dataclasses import replace

import numpy as np
import pytest
from small_world import small_cache

from quee.policies.base import simulate_behind
from quee.policies.patience import Patience
from quee.policies.sweep import Setting
from quee.policies.thresholds import points_of
from quee.policies.walks import walk, walks_of


def exits(prediction: np.ndarray, patience: int) -> list[int]:
    """Gates, from 0, at which samples with answers (S, gates) along w4a4 exit."""
    cache = small_cache(len(prediction), segments=prediction.shape[1])
    nodes = cache.tree.lineage(cache.tree.node("-".join(["w4a4"] * prediction.shape[1])))
    answers = cache.prediction.copy()
    answers[:, nodes] = prediction
    cache = replace(cache, prediction=answers)
    gates = len(nodes)
    points = points_of((0,) * gates, np.full((1, gates - 1), float(patience)), np.ones(1))
    policy = Patience.on(Setting.of(replace(cache, split=np.full(len(cache), "validation")), ("validation",)), points)
    ends = simulate_behind(cache.tree, policy, cache.features, np.zeros(1), np.zeros(1, int), walks_of(policy, cache))
    return (cache.tree.gate[ends[:, 0]] - 1).tolist()


@pytest.mark.parametrize(("patience", "expected"), [(1, [1, 2, 3, 1]), (2, [2, 3, 3, 3]), (9, [3, 3, 3, 3])])
def test_patience_counts_agreements_in_a_row(patience: int, expected: list[int]) -> None:
    assert exits(np.array([[1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 1, 2], [3, 3, 1, 1]]), patience) == expected


def test_class_0_at_the_first_gate_agrees_with_nobody() -> None:
    assert exits(np.array([[0, 0, 0, 0], [0, 1, 1, 0]]), 2) == [2, 3]


def test_a_policy_that_carries_numbers_is_not_simulated_without_its_walk() -> None:
    setting = Setting.of(small_cache(90), ("validation",))
    policy = Patience.fit(setting)
    assert policy is not None
    cache = setting.caches["validation"]
    assert walk(policy, cache).carried.shape == (len(cache), len(cache.tree), 2)
    with pytest.raises(KeyError):
        simulate_behind(cache.tree, policy, cache.features, np.zeros(1), np.zeros(1, int))
