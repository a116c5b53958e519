"""Every deployable policy in a bundle of its own, on a small network, takes the simulated paths."""

from pathlib import Path

import numpy as np
import own_policy
import pytest
from host_loop import run_graphs

from quee.cache.answers import answered
from quee.cache.read import FeatureCache
from quee.ensembles import as_cached
from quee.export.bundle import write_bundle
from quee.policies.base import Basis, simulate_behind, wrong
from quee.policies.files import read_policy, read_predictors
from quee.policies.registry import METHODS, deployable
from quee.policies.walks import walks_of
from quee.runtime import AdaptiveClassifier, load_bundle
from quee.runtime.operating import Options
from quee.work.io import read_json


def cache_of(classifier: AdaptiveClassifier, x: np.ndarray, label: np.ndarray, description: dict) -> FeatureCache:
    """Answers on prepared images at every node, from the results of the classifier's engine."""
    tree, states, said, seen = classifier.tree, {-1: x}, [], []
    for node, path in enumerate(tree.paths):
        step = classifier.engine.run(len(path), path[-1], states[int(tree.parent[node])])
        states[node] = step.state
        said.append(step.log_probs)
        seen.append(step.features)
    log_probs, features = np.stack(said, axis=1), np.stack(seen, axis=1)  # (n, N, …)
    prediction, n = log_probs.argmax(axis=2).astype(np.int32), len(x)
    split = np.where(np.arange(n) % 2, "validation", "predictor").astype(object)
    none = np.zeros((n, 0))
    own = FeatureCache(
        tree,
        {**description, "reference_precisions": [], "references": []},
        np.arange(n),
        split,
        label.astype(np.int32),
        prediction,
        prediction != label[:, None],
        np.exp(np.take_along_axis(log_probs, label[:, None, None], axis=2)[:, :, 0]).astype(np.float32),
        features,
        none.astype(bool),
        np.zeros((n, 0, features.shape[2]), np.float32),
        none.astype(np.int32),
        head_log_probs=as_cached(log_probs),
    )
    return answered(own, classifier.executor.ensembles)


@pytest.fixture(scope="module")
def cache(classifier, images, bundle) -> FeatureCache:
    x = classifier.prepare(images[0][:300])
    return cache_of(classifier, x, images[1][:300], read_json(bundle / "tree.json"))


@pytest.mark.parametrize("name", [*(m for m in deployable() if m != "fitted_q"), own_policy.METHOD.name])
def test_a_bundle_of_any_deployable_policy_takes_the_simulated_paths(
    name: str, bundle: Path, cache: FeatureCache, classifier, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register(own_policy.METHOD.name)(own_policy.METHOD)
    basis = Basis(cache.tree, cache.description, read_predictors(bundle))
    learned = {method: read_policy(bundle, method, basis) for method in ("plan", "fitted_q")}
    x = classifier.prepare(images[0][:300])
    out = tmp_path / name
    out.mkdir()
    heads = bundle / "heads.safetensors"
    write_bundle(
        out, name, bundle, bundle, heads, cache, basis, learned, name, 0.2, classifier.classes, lambda ids: x[ids]
    )
    loaded = load_bundle(out)
    names = {point.policy for point in loaded.points}
    assert names == {name} or name == "auto"
    assert (out / "predictors.safetensors").is_file() == any(METHODS[used].learned for used in names)
    serving = {p.cost: loaded.operating(Options(budget=p.cost)) for p in loaded.points}
    within = [cost for cost, at in serving.items() if at.share == 0.0]  # budgets that are served by a single point
    within = within[:: max(1, len(within) // 5)]
    points = [serving[cost].low for cost in within]
    knobs, first = np.array([p.trade_off for p in points]), np.array([p.first for p in points])
    walks = walks_of(loaded.policy, cache)
    expected = simulate_behind(cache.tree, loaded.policy, cache.features, knobs, first, walks)
    answered_wrong = wrong(loaded.policy, expected, knobs, cache.error, walks)
    for column, (point, budget) in enumerate(zip(points, within, strict=True)):
        routed = loaded.route_prepared(x, budget=budget)
        assert np.array_equal(routed.node, expected[:, column])
        assert np.array_equal(routed.label != cache.label, answered_wrong[:, column])
        assert np.allclose(routed.cost, loaded.policy.spent(expected[:, column], np.full(len(x), point.trade_off)))
        assert set(routed.decided_by) == {point.policy}
    assert loaded.route_prepared(x, trade_off=1e6).cost.mean() <= loaded.route_prepared(x, trade_off=0.0).cost.mean()
    column = int(np.argmax([len(set(routed)) for routed in expected.T]))
    node, label, cost = run_graphs(out, classifier.engine, x[:60], points[column].policy, knobs[column], first[column])
    assert np.array_equal(node, expected[:60, column])
    assert np.array_equal(label != cache.label[:60], answered_wrong[:60, column])
    assert np.array_equal(cost, loaded.policy.spent(node, np.full(60, knobs[column])))
    most = float(np.median(loaded.costs))
    assert (loaded.route_prepared(x, max_cost=most).cost <= most).all()
    told = loaded.explain(images[0][:3], budget=within[-1])
    assert {(one.policy, one.decided_by) for one in told} == {(name, points[-1].policy)}
    assert loaded.policy_name == name and loaded.operating(Options(budget=within[-1])).decided_by in names
    assert [one.gates[-1].cost for one in told] == pytest.approx([one.cost for one in told])
