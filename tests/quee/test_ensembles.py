"""Ensembles of the heads visited: their laws, and their fit."""

from pathlib import Path

import numpy as np
import pytest
from small_world import small_cache

from quee.ensembles import FILE, MOST, Ensemble, Ensembles, as_cached, mixed, normalised, own_head, read_ensembles
from quee.errors import IntegrityError
from quee.features import state_features
from quee.paths import PathTree
from quee.work.io import write_tensors

TREE = PathTree(["w4a4", "w8a8"], 2)


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
    found = Ensemble.fit(log_probs, label, own_head(log_probs.shape[1]), 1.0)
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
    both = np.stack([sure, log_probs[random.permutation(len(label)), 1]], axis=1)
    found = Ensemble.fit(both, label, own_head(2), 1.0)
    assert found.weight[0] == pytest.approx(1 / 3, abs=0.05)
    assert found.weight[1] == pytest.approx(0, abs=0.05)
    assert (found.weight >= 0).all()


def test_probabilities_sum_to_one() -> None:
    log_probs, label = heads([1.0, 1.0, 2.0], n=200)
    assert np.exp(Ensemble.fit(log_probs, label, own_head(log_probs.shape[1]), 1.0)(log_probs)).sum(
        axis=1
    ) == pytest.approx(1)


def tree_of_heads(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (n, N, classes), as cached, of independent heads at the nodes of TREE, and labels (n,)."""
    log_probs, label = heads([1.5] * len(TREE), n, seed=seed)
    return as_cached(log_probs), label


def likelihood(ensembles: Ensembles, node: int, log_probs: np.ndarray, label: np.ndarray) -> float:
    """Mean log-likelihood of the labels."""
    found, _ = ensembles(np.full(len(label), node), log_probs[:, TREE.lineage(node)], np.zeros((len(label), 4)))
    return float(found[np.arange(len(label)), label].mean())


def test_without_samples_every_node_answers_with_its_own_head_bit_for_bit() -> None:
    log_probs, label = tree_of_heads(50)
    found = Ensembles.fit(TREE, log_probs[:0], label[:0])
    embedding = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    for node in range(len(TREE)):
        visited = log_probs[:, TREE.lineage(node)]
        own = state_features(log_probs[:, node], embedding)
        given = np.concatenate([np.zeros((50, 4), np.float32), embedding], axis=1)
        for value, wanted in zip(found(np.full(50, node), visited, given), own, strict=True):
            assert np.array_equal(value, wanted)


def test_few_samples_move_the_weights_little_and_many_move_them() -> None:
    start = Ensembles.fit(TREE, *(array[:0] for array in tree_of_heads(1)))
    moved = [np.abs(Ensembles.fit(TREE, *tree_of_heads(n)).weight - start.weight).max() for n in (2, 2000)]
    assert 3 * moved[0] < moved[1]


def test_the_fit_makes_other_samples_more_likely_than_their_own_heads_do() -> None:
    alone, found = Ensembles.fit(TREE, *(a[:0] for a in tree_of_heads(1))), Ensembles.fit(TREE, *tree_of_heads(1000))
    log_probs, label = tree_of_heads(1000, seed=1)
    for node in TREE.nodes_at(2):
        assert likelihood(found, node, log_probs, label) > likelihood(alone, node, log_probs, label) + 0.05


def test_the_last_heads_alone_of_an_ensemble_are_mixed_as_the_formula_says() -> None:
    log_probs = np.log(np.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]]))
    z = mixed(log_probs, np.array([[2.0, 0.5]]), np.array([[0.0, 1.0, -1.0]]))
    by_hand = [2 * np.log(a) + 0.5 * np.log(b) + c for a, b, c in ((0.5, 0.1, 0), (0.3, 0.6, 1), (0.2, 0.3, -1))]
    assert z[0] == pytest.approx(by_hand)


def test_a_rows_answer_does_not_depend_on_the_others() -> None:
    log_probs, label = tree_of_heads(301)
    found, random = Ensembles.fit(TREE, log_probs, label), np.random.default_rng(0)
    node = random.choice(TREE.nodes_at(2), size=len(label))
    visited = np.stack([log_probs[row, TREE.lineage(int(n))] for row, n in enumerate(node)])
    features = random.normal(size=(len(label), 6)).astype(np.float32)
    whole = found(node, visited, features)
    for rows in (slice(0, 1), slice(7, 40), random.permutation(len(label))):
        part = found(node[rows], visited[rows], features[rows])
        assert all(np.array_equal(a, b[rows]) for a, b in zip(part, whole, strict=True))


def test_more_samples_than_are_used_give_the_same_ensembles_in_every_run() -> None:
    cache = small_cache(3 * MOST // 2, segments=2)
    first, second = (Ensembles.fit(cache.tree, cache.head_log_probs, cache.label) for _ in range(2))
    assert np.array_equal(first.weight, second.weight) and np.array_equal(first.bias, second.bias)


DAMAGES = {
    "weight has shape": lambda arrays: {**arrays, "weight": arrays["weight"][1:]},
    "bias has shape": lambda arrays: {**arrays, "bias": arrays["bias"][:, 1:]},
    "not finite": lambda arrays: {**arrays, "bias": arrays["bias"] * np.nan},
    "negative": lambda arrays: {**arrays, "weight": arrays["weight"] - 2},
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_arrays_that_do_not_fit_the_tree_are_named(fault: str) -> None:
    found = Ensembles.fit(TREE, *tree_of_heads(20))
    assert not found.fault(TREE, 4)
    assert fault in Ensembles(**DAMAGES[fault](found.arrays())).fault(TREE, 4)


def test_a_file_gives_back_what_was_written_and_other_contents_are_refused(tmp_path: Path) -> None:
    found = Ensembles.fit(TREE, *tree_of_heads(20))
    assert read_ensembles(tmp_path) is None
    write_tensors(tmp_path / FILE, found.arrays())
    again = read_ensembles(tmp_path)
    assert again is not None and np.array_equal(again.weight, found.weight) and np.array_equal(again.bias, found.bias)
    write_tensors(tmp_path / FILE, {"bias": found.bias})
    with pytest.raises(IntegrityError, match="bias instead of bias, weight"):
        read_ensembles(tmp_path)


@pytest.mark.parametrize("classes", [2, 4, 30])
def test_no_move_that_is_allowed_lowers_the_penalised_loss(classes: int) -> None:
    log_probs, label = heads([1.0, 1.5, 4.0], n=400, classes=classes)
    log_probs[:, 1] = normalised(-log_probs[:, 0])  # a head that is wrong on purpose is held at 0
    toward, ridge = own_head(3), 2.0
    found = Ensemble.fit(log_probs, label, toward, ridge)

    def loss(weight: np.ndarray, bias: np.ndarray) -> float:
        moved = np.square(weight - toward).sum() + np.square(bias).sum()
        likelihood = Ensemble(weight, bias)(log_probs)[np.arange(len(label)), label].sum()
        return float(ridge / 2 * moved - likelihood)

    least, random = loss(found.weight, found.bias), np.random.default_rng(1)
    assert found.weight[1] == 0 and (found.weight >= 0).all()
    for size in (1e-3, 1e-2, 0.3):
        for _ in range(30):
            weight = np.maximum(found.weight + size * random.normal(size=3), 0)
            assert loss(weight, found.bias + size * random.normal(size=classes)) > least
