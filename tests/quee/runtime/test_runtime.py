"""quee.fit, bundles and the classifier on a small untrained network: execution must equal simulation for any predictions."""

from pathlib import Path

import numpy as np
import pytest
import torch

import quee
from quee.ensembles import as_cached
from quee.errors import UsageError
from quee.network.architectures import create_backbone

KWARGS = {"embed_dim": 16, "depth": 4, "num_heads": 2}


def test_results_do_not_depend_on_the_batch(classifier, images) -> None:
    whole = classifier.route(images[0][:90], budget=0.2)
    for size in (1, 7, 64):
        parts = [classifier.route(images[0][:90][i : i + size], budget=0.2) for i in range(0, 90, size)]
        assert np.array_equal(whole.node, np.concatenate([p.node for p in parts]))
        assert np.array_equal(whole.probabilities, np.concatenate([p.probabilities for p in parts]))


def test_cost_is_that_of_the_path_taken(classifier, images) -> None:
    found = classifier.route(images[0][:50], budget=0.3)
    assert np.array_equal(found.cost, classifier.costs[found.node])
    assert found.path == [classifier.tree.name(n) for n in found.node]


def test_executed_labels_equal_running_each_path_from_the_stem(classifier, images) -> None:
    x = classifier.prepare(images[0][:40])
    found = classifier.route_prepared(x, trade_off=0.05)
    for row, node in enumerate(found.node):
        path = classifier.tree.paths[node]
        heads = []
        for end in range(1, len(path) + 1):
            with torch.inference_mode():
                state = classifier.backbone.run_path(path[:end], torch.from_numpy(x[row : row + 1]))
            log_probs, features = classifier.view(end, path[end - 1], state)
            heads.append(as_cached(log_probs))
        answer, _ = classifier.executor.ensembles(np.array([node]), np.stack(heads, axis=1), features)
        assert answer.argmax() == found.label[row]
        assert np.array_equal(np.exp(answer[0]), found.probabilities[row])


def test_no_sample_costs_more_than_max_cost(classifier, images) -> None:
    limit = float(np.median(classifier.costs))
    assert classifier.route(images[0][:60], max_cost=limit).cost.max() <= limit


@pytest.mark.parametrize("other", [{"budget": 0.3}, {"trade_off": 0.01}])
def test_a_limit_for_every_sample_holds_beside_a_budget(classifier, images, other) -> None:
    limit = float(np.quantile(classifier.costs, 0.3))
    capped, free = (classifier.route(images[0][:60], **other, **more) for more in ({"max_cost": limit}, {}))
    assert capped.cost.max() <= limit
    assert capped.budget_met
    assert (capped.node != free.node)[free.cost > limit].all()
    assert not classifier.route(images[0][:5], **other, max_cost=1e-6).budget_met


def test_an_unreachable_budget_is_answered_and_says_so(classifier, images) -> None:
    found = classifier.route(images[0][:5], budget=1e-4)
    assert not found.budget_met
    assert len(found.label) == 5


def test_fit_does_not_overwrite(bundle: Path, images) -> None:
    backbone = create_backbone("vit_digits", (1, 2, 4), **KWARGS)
    with pytest.raises(UsageError, match="exists"):
        quee.fit(backbone, *images, bundle)


def test_the_card_tells_people_what_the_bundle_is(bundle, classifier) -> None:
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert f"| classes | {len(classifier.classes)} |" in card and "w4a4, w8a8" in card and "8 × 8 pixels" in card
    first = classifier.points[0]
    low, high = first.cost_interval
    assert f"| {first.cost:.3f} [{low:.3f}, {high:.3f}] | {first.accuracy:.4f} [" in card
