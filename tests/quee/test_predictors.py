import numpy as np
import pytest
import torch
from small_world import small_cache
from torch import nn

from quee.policies.networks import Network, Predictors, gate_inputs
from quee.predictors import fit_predictors, predictions, quality, quantized, rows_at, standardised
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
