"""Inputs shift while serving: images cost more than validation data."""

from pathlib import Path

import numpy as np
import pytest
from endpoint import Endpoint, serving

REQUESTS, IMAGES = 90, 32


@pytest.fixture(scope="module")
def dear(classifier, images) -> tuple[np.ndarray, float]:
    """Images that overspend a budget, and that budget."""
    costs = [point.cost for point in classifier.points]
    budget = float(np.sqrt(costs[0] * costs[-1]))
    spent = classifier.route(images[0], budget=budget).cost
    shifted = images[0][np.argsort(spent, kind="stable")[-150:]]
    assert classifier.route(shifted, budget=budget).cost.mean() > 1.1 * budget
    assert classifier.route(shifted, budget=costs[0]).cost.mean() < 0.9 * budget
    return shifted, budget


def spent_over_asked(endpoint: Endpoint, classifier, shifted: np.ndarray, budget: float) -> np.ndarray:
    """(requests,) means; every answer is that of the bundle at the budget applied."""
    path, random, found = f"/v2/models/{endpoint.service.current.name}/infer", np.random.default_rng(0), []
    for number in range(REQUESTS):
        pixels = shifted[random.integers(len(shifted), size=IMAGES)]
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
        asked = {"inputs": [tensor], "parameters": {"budget": budget}, "outputs": [{"name": "cost"}]}
        status, answer = endpoint.post(path, asked)
        assert status == 200
        costs = answer["outputs"][0]["data"]
        if number % 10 == 0:
            offline = classifier.route(pixels, budget=answer["parameters"]["budget_applied"])
            assert costs == offline.cost.tolist()
        found.append(np.mean(costs) / budget)
    return np.array(found)


def drift(endpoint: Endpoint, budget: float) -> float:
    label = f"{endpoint.service.current.control.label(budget):.3g}"
    assert endpoint.metric(f'quee_budget_debt{{budget="{label}"}}') != 0
    return endpoint.metric(f'quee_cost_over_expected{{budget="{label}"}}')


def test_without_control_the_budget_is_overspent_and_the_metric_says_so(bundle: Path, classifier, dear) -> None:
    with serving(bundle, control=False) as endpoint:
        spent = spent_over_asked(endpoint, classifier, *dear)
        assert spent.mean() > 1.1
        assert drift(endpoint, dear[1]) > 1.1


def test_with_control_the_budget_asked_is_spent_and_the_metric_still_shows_the_drift(
    bundle: Path, classifier, dear
) -> None:
    with serving(bundle, control=True) as endpoint:
        spent = spent_over_asked(endpoint, classifier, *dear)
        assert abs(spent[30:].mean() - 1) < 0.05
        assert spent[:32].mean() < 1.05, "within 5 % over 1,000 images, the first included"
        assert drift(endpoint, dear[1]) > 1.05
        total = endpoint.metric("quee_cost_spent_total") / endpoint.metric("quee_cost_asked_total")
        assert total == pytest.approx(spent.mean())
