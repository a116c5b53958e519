"""A stream holds its budget over shifted images, and its answers depend on the order of images alone."""

from threading import Thread

import numpy as np
import pytest

from quee.errors import UsageError
from quee.runtime import AdaptiveClassifier
from quee.runtime.stream import BLOCK, MOST


@pytest.fixture(scope="module")
def dear(classifier: AdaptiveClassifier, images: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """1,000 prepared images that overspend a budget, and that budget."""
    x = classifier.prepare(images[0])
    costs = [point.cost for point in classifier.points]
    budget = float(np.sqrt(costs[0] * costs[-1]))
    dearest = np.argsort(classifier.route_prepared(x, budget=budget).cost, kind="stable")[-150:]
    return x[np.random.default_rng(0).choice(dearest, 1000)], budget


def test_over_1000_shifted_images_the_mean_cost_is_within_5_percent_of_the_budget(
    classifier: AdaptiveClassifier, dear: tuple[np.ndarray, float]
) -> None:
    x, budget = dear
    assert classifier.route_prepared(x, budget=budget).cost.mean() > 1.1 * budget
    stream = classifier.stream(budget=budget)
    spent = stream.route_prepared(x).cost.mean()
    assert 0.9 < spent / budget < 1.05
    assert stream.state.images % BLOCK == 0 and 1000 - MOST < stream.state.images <= 1000
    assert stream.state.drift > 1.05
    assert stream.state.applied < budget


@pytest.mark.parametrize("size", [1, 7, 64, 250])
def test_answers_do_not_depend_on_how_images_are_divided_among_calls(
    classifier: AdaptiveClassifier, dear: tuple[np.ndarray, float], size: int
) -> None:
    x, budget = dear[0][:300], dear[1]
    whole, parts = classifier.stream(budget=budget), classifier.stream(budget=budget)
    expected = whole.route_prepared(x)
    found = [parts.route_prepared(x[start : start + size]) for start in range(0, len(x), size)]
    joined = found[0].joined(found)
    assert np.array_equal(joined.label, expected.label)
    assert np.array_equal(joined.cost, expected.cost)
    assert joined.path == expected.path
    assert whole.state == parts.state


def test_every_image_keeps_its_own_limit(classifier: AdaptiveClassifier, dear: tuple[np.ndarray, float]) -> None:
    x, budget = dear
    limit = float(np.median(classifier.route_prepared(x, budget=budget).cost))
    assert classifier.stream(budget=budget, max_cost=limit).route_prepared(x[:200]).cost.max() <= limit


def test_images_as_on_validation_are_routed_as_without_a_stream(
    classifier: AdaptiveClassifier, images: tuple[np.ndarray, np.ndarray]
) -> None:
    """Without an option the bundle's own budget holds; the first block is answered before anything is known."""
    stream = classifier.stream()
    assert stream.budget == classifier.budget
    found = stream.route(images[0][:BLOCK])
    assert found.cost.tolist() == classifier.route(images[0][:BLOCK]).cost.tolist()
    assert stream.predict(images[0][:3]).shape == (3,)


def test_threads_share_a_stream(classifier: AdaptiveClassifier, dear: tuple[np.ndarray, float]) -> None:
    x, budget = dear
    stream = classifier.stream(budget=budget)
    threads = [Thread(target=stream.route_prepared, args=(x[start : start + 50],)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.state.images % BLOCK == 0 and 400 - MOST < stream.state.images <= 400


@pytest.mark.parametrize(
    "options",
    [{"trade_off": 0.1}, {"accuracy_loss": 1.0}, {"latency_ms": 2.0}, {"images_per_second": 100.0}],
    ids=lambda o: next(iter(o)),
)
def test_options_without_a_mean_cost_are_refused(classifier: AdaptiveClassifier, options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a stream holds a mean cost: give budget"):
        classifier.stream(**options)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), "0.2"])
def test_budgets_that_are_none_are_refused(classifier: AdaptiveClassifier, budget: object) -> None:
    with pytest.raises(UsageError, match="budget="):
        classifier.stream(budget=budget)  # type: ignore[arg-type]
