"""Logistic regression finds the optimum, with the same bytes for any number of threads and bounded memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from quee import _logistic as logistic
from quee._logistic import BLOCK, TOLERANCE, fit_logistic


def problem(n: int, width: int, classes: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, width) float32 around class centres `spread` apart, off zero, and their classes (n,); each class occurs."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = random.normal(size=(classes, width)) * spread
    return (centres[y] + random.normal(size=(n, width)) + 3.0).astype(np.float32), y


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, penalty: float) -> float:
    z = x.astype(np.float64) @ weight.T + bias
    z -= z.max(axis=1, keepdims=True)
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    return float(loss.mean() + penalty / 2 * (weight**2).sum())


CASES = {
    "two classes": (300, 4, 2, 0.5, 1.0),
    "ten classes that overlap": (3000, 20, 10, 0.3, 1.0),
    "separable classes": (500, 30, 5, 3.0, 1.0),
    "many classes": (600, 12, 40, 1.0, 1.0),
    "more columns than rows": (60, 100, 3, 0.3, 1.0),
    "a strong penalty": (1000, 10, 4, 0.5, 300.0),
    "a weak penalty": (5000, 10, 4, 0.5, 0.01),
    "rows beyond a block": (2 * BLOCK + 7, 8, 3, 0.5, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_fit_is_the_optimum_that_scikit_learn_finds(case: str) -> None:
    n, width, classes, spread, decay = CASES[case]
    x, y = problem(n, width, classes, spread)
    found = fit_logistic(x, y, classes, decay / n)
    assert found.gradient <= TOLERANCE
    inverse = 2 / decay if classes == 2 else 1 / decay  # of two classes scikit-learn has the difference alone
    exact = LogisticRegression(C=inverse, tol=1e-6, max_iter=5_000).fit(x.astype(np.float64), y)
    weight, bias = exact.coef_, exact.intercept_
    if classes == 2:
        weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
    least = objective(x, y, weight, bias, decay / n)
    assert objective(x, y, found.weight, found.bias, decay / n) == pytest.approx(least, abs=3e-5)
    assert found.losses[0] == pytest.approx(np.log(classes))
    assert found.losses[-1] == pytest.approx(objective(x, y, found.weight, found.bias, 0.0), abs=1e-6)


@pytest.mark.parametrize("n", [100, BLOCK, 3 * BLOCK + 5])
def test_the_fit_has_the_same_bytes_on_any_number_of_threads(n: int) -> None:
    x, y = problem(n, 24, 6, 0.4)
    fits = [fit_logistic(x, y, 6, 1 / n, threads=threads) for threads in (1, 2, 5)]
    assert len({fit.weight.tobytes() + fit.bias.tobytes() for fit in fits}) == 1
    assert len({tuple(fit.losses) for fit in fits}) == 1


def test_progress_is_told_with_every_iteration() -> None:
    x, y = problem(500, 6, 3, 0.5)
    told: list[tuple[int, float]] = []
    found = fit_logistic(x, y, 3, 1 / 500, lambda iteration, loss: told.append((iteration, loss)))
    assert told == list(enumerate(found.losses))[1:]
    assert len(told) > 3


def test_memory_beside_the_rows_does_not_grow_with_them() -> None:
    x, y = problem(60_000, 64, 4, 0.5)
    tracemalloc.start()
    fit_logistic(x, y, 4, 1e-3, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * x.nbytes


def test_a_fit_that_ends_before_the_optimum_tells_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "ITERATIONS", 3)
    x, y = problem(300, 10, 3, 0.2)
    assert fit_logistic(x, y, 3, 1 / 300).gradient > TOLERANCE
