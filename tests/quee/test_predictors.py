from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import small_cache
from torch import nn

from quee.policies.networks import Network, Predictors, certainty, gate_inputs
from quee.predictors import auroc, fit_predictors, predictions, quality, quantized, ranking, rows_at, standardised
from quee.settings.predictors import Predictors as Settings
from quee.targets import ClusterTargets, future_errors


def fitted() -> tuple[Predictors, object]:
    cache = small_cache(600)
    predictor, validation = cache.of("predictor"), cache.of("validation")
    targets = ClusterTargets(10).fit(predictor)
    gates = range(1, cache.tree.segments)
    goals = [targets.predict(predictor, gate) for gate in gates]
    predictors, _ = fit_predictors(predictor, goals, validation, Settings(epochs=40))
    return predictors, cache.of("test")


def test_predictors_rank_errors_on_unseen_samples() -> None:
    predictors, test = fitted()
    for gate in (1, 2):
        p = predictions(predictors, test, gate)
        found = quality(p, future_errors(test, gate))
        assert found["auroc"] > 0.85
        assert ((p >= 0) & (p <= 1)).all()


def test_predictions_are_those_of_the_considered_continuations() -> None:
    predictors, test = fitted()
    dense = predictors.predict(1, gate_inputs(test.tree, 1, test.features))
    assert np.array_equal(predictions(predictors, test, 1), dense[:, *test.tree.continuations(1)])


def test_of_many_rows_so_many_are_drawn_and_each_is_a_row_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = small_cache(60)
    errors = future_errors(cache, 2)
    x, y = rows_at(cache, 2, errors, 0)
    monkeypatch.setattr("quee.predictors.MOST_ROWS", 50)
    few, own = rows_at(cache, 2, errors, 0)
    assert len(x) == 60 * 4 and len(few) == len(own) == 50
    known = {(*a, *b): None for a, b in zip(x.tolist(), np.nan_to_num(y, nan=-1).tolist(), strict=True)}
    drawn = [(*a, *b) for a, b in zip(few.tolist(), np.nan_to_num(own, nan=-1).tolist(), strict=True)]
    assert len(set(drawn)) == 50 and all(row in known for row in drawn)
    again, _ = rows_at(cache, 2, errors, 0)
    assert np.array_equal(few, again)
    assert not np.array_equal(few, rows_at(cache, 2, errors, 1)[0])


def test_predictions_do_not_depend_on_the_batch_and_survive_storage() -> None:
    predictors, test = fitted()
    x = gate_inputs(test.tree, 1, test.features)
    whole = predictors.predict(1, x)
    again = Predictors.from_arrays(predictors.arrays())
    assert np.array_equal(whole, np.concatenate([again.predict(1, part) for part in np.array_split(x, 17)]))


def test_inputs_stack_the_visited_nodes_and_name_the_prefix() -> None:
    cache = small_cache(6)
    tree = cache.tree
    inputs = gate_inputs(tree, 2, cache.features)
    node = tree.node("w8a8-w4a4")
    row = inputs[:, list(tree.nodes_at(2)).index(node)]
    first, second = tree.lineage(node)
    assert np.array_equal(row[:, :5], cache.features[:, first])
    assert np.array_equal(row[:, 5:10], cache.features[:, second])
    assert row[0, 10:].tolist() == [0, 1, 1, 0]


def network(inputs: int = 3, hidden: int = 7, outputs: int = 2) -> tuple[Network, nn.Linear, nn.Linear, np.ndarray]:
    torch.manual_seed(0)
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    x = np.random.default_rng(0).normal(2.0, 3.0, (500, inputs))
    found = quantized(x.mean(axis=0), x.std(axis=0), first, last, x)
    return found, first, last, x


def test_cost_counts_both_products_at_eight_bits() -> None:
    assert network()[0].bitflops == (3 * 7 + 7 * 2) * 8 * 8


def test_eight_bits_come_close_to_floating_point() -> None:
    found, first, last, x = network(inputs=20, hidden=32, outputs=10)
    with torch.inference_mode():
        wanted = last(first(standardised(x, found.mean, found.scale)).relu()).numpy()
    assert np.abs(found(x) - wanted).max() < 0.05 * wanted.std()


def test_quality_of_a_perfect_ranking() -> None:
    found = quality(np.array([0.1, 0.2, 0.9]), np.array([0.0, 0.0, 1.0]))
    assert found["auroc"] == 1
    assert found["aurc"] == pytest.approx(1 / 9)


def confidence(cache, gate: int) -> np.ndarray:
    """1 - largest probability (S, nodes) at a gate."""
    return 1 - cache.features[:, cache.tree.nodes_at(gate), 0].astype(np.float64)


def test_before_training_the_error_of_exiting_ranks_exactly_as_confidence() -> None:
    cache = small_cache(600)
    predictor = cache.of("predictor")
    targets = ClusterTargets(10).fit(predictor)
    goals = [targets.predict(predictor, gate) for gate in (1, 2)]
    predictors, _ = fit_predictors(predictor, goals, cache.of("validation"), Settings(epochs=1, learning_rate=1e-12))
    for gate in (1, 2):
        predicted = predictors.networks[gate - 1](gate_inputs(cache.tree, gate, cache.features))[:, :, 0]
        doubt = confidence(cache, gate).clip(2.0**-25, 1 - 2.0**-25)
        for node in range(doubt.shape[1]):
            order = np.argsort(doubt[:, node], kind="stable")
            rising = np.diff(predicted[order, node])
            assert (rising >= 0).all()
            assert (rising[np.diff(doubt[order, node]) > 1e-5] > 0).all()


def test_predictors_rank_no_worse_than_the_confidence_that_they_are_given() -> None:
    """The features of this world say nothing beyond confidence that matters, so learning must not unlearn it."""
    for seed in range(3):
        cache = small_cache(900, seed=seed)
        predictor = cache.of("predictor")
        targets = ClusterTargets(10).fit(predictor)
        goals = [targets.predict(predictor, gate) for gate in (1, 2)]
        predictors, _ = fit_predictors(predictor, goals, cache.of("validation"), Settings(epochs=60))
        for gate in (1, 2):
            found = ranking(predictors, cache.of("test"), gate)
            assert found["exit_auroc"] > found["exit_auroc_confidence"] - 0.01
            assert found["gain_auroc"] > found["gain_auroc_confidence"] - 0.01


def test_what_confidence_cannot_tell_from_hopeless_is_learned() -> None:
    """Samples are hopeless where an embedding says so; both kinds are equally unsure."""
    cache = small_cache(1800)
    hopeless = np.random.default_rng(1).random(len(cache)) < 0.5
    error = cache.error | (hopeless[:, None] & cache.error[:, :1])
    features = cache.features.copy()
    features[:, :, 4] = hopeless[:, None]
    cache = replace(cache, error=error, features=features)
    predictor = cache.of("predictor")
    targets = ClusterTargets(20).fit(predictor)
    goals = [targets.predict(predictor, gate) for gate in (1, 2)]
    predictors, _ = fit_predictors(predictor, goals, cache.of("validation"), Settings(epochs=100))
    found = ranking(predictors, cache.of("test"), 1)
    assert found["gain_auroc"] > found["gain_auroc_confidence"] + 0.1


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_auroc_is_the_share_of_pairs_in_order(seed: int, samples: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    score = random.integers(0, 5, (samples, columns)).astype(float)
    wanted = random.random((samples, columns)) < 0.4
    pairs, right = 0, 0.0
    for column in range(columns):
        for high in score[wanted[:, column], column]:
            for low in score[~wanted[:, column], column]:
                pairs, right = pairs + 1, right + (high > low) + 0.5 * (high == low)
    assert auroc(score, wanted) == (pytest.approx(right / pairs) if pairs else None)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30))
def test_certainty_keeps_the_order_of_probabilities(values: list[float]) -> None:
    p = np.sort(np.array(values, np.float32))
    found = certainty(p)
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()


def test_a_skip_survives_storage_and_is_counted() -> None:
    predictors, test = fitted()
    again = Predictors.from_arrays(predictors.arrays())
    x = gate_inputs(test.tree, 1, test.features)
    assert np.array_equal(predictors.predict(1, x), again.predict(1, x))
    network = predictors.networks[0]
    plain = replace(network, skip=None)
    assert network.bitflops - plain.bitflops == len(network.skip.weight) * 32 * 32
    assert not np.array_equal(network(x), plain(x))
