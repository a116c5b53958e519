"""Multinomial logistic regression on many rows, fitted to its optimum.

The problem is convex, so its answer depends on the rows and the penalty alone; there is no seed, learning rate or number
of epochs. Products are in float32 over blocks of rows of one size; sums over blocks and the solver's numbers are in
float64. One thread per core computes blocks, and blocks are added in their order, so the answer's bytes do not depend on
the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from quee.work.threads import cores

BLOCK = 2048
"""Rows multiplied at a time."""
TOLERANCE = 1e-5
"""The solver stops when no component of the gradient is larger, in nats per unit of a whitened weight.

On 22,500 states of Fashion-MNIST, 256 wide, half the tolerance changes the objective by less than 5e-6 nats.
"""
ITERATIONS = 2000
LEAST = 1e-3
"""Share of the largest variance of the rows; smaller variances are raised to it."""
CORRECTIONS = 40
"""Number of steps from which L-BFGS estimates the curvature."""


@dataclass(frozen=True)
class Fitted:
    """A fitted regression: logits are `x @ weight.T + bias`."""

    weight: np.ndarray
    """(classes, D) float64."""
    bias: np.ndarray
    """(classes,) float64."""
    losses: list[float]
    """Mean cross-entropy in nats, without the penalty, before the first iteration and after each."""
    gradient: float
    """Largest component of the objective's gradient where the solver stopped."""


def fit_logistic(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    penalty: float,
    said: Callable[[int, float], None] = lambda iteration, loss: None,
    threads: int | None = None,
) -> Fitted:
    """Minimise mean cross-entropy + penalty/2 · Σ weight² by L-BFGS from zero weights; biases are not penalised.

    `x` float32 (n, D), `y` (n,) classes; `said` is called with each iteration's number and loss.
    """
    from scipy.optimize import minimize  # imported late: most stages do not need it

    width = x.shape[1]
    losses: list[float] = []
    latest = 0.0

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal latest
        weight, bias = _parts(values, mean, spread, classes)
        latest, slope = _loss(x, y, weight, bias, pool)
        by_weight = slope[:, :width] + penalty * weight - np.outer(slope[:, width], mean)
        if not losses:
            losses.append(latest)
        return latest + penalty / 2 * float((weight**2).sum()), np.column_stack(
            [by_weight @ spread, slope[:, width]]
        ).ravel()

    def after(_: np.ndarray) -> None:
        losses.append(latest)
        said(len(losses) - 1, latest)

    options = {
        "maxiter": ITERATIONS,
        "maxfun": 2 * ITERATIONS,
        "maxcor": CORRECTIONS,
        "gtol": TOLERANCE,
        "ftol": 0.0,
    }
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads or cores(), thread_name_prefix="logistic") as pool,
    ):
        mean, spread = _whitening(x)
        start = np.zeros(classes * (width + 1))
        found = minimize(objective, start, method="L-BFGS-B", jac=True, callback=after, options=options)
    return Fitted(*_parts(found.x, mean, spread, classes), losses, float(np.abs(found.jac).max()))


def _whitening(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) of rows (n, D), and a matrix (D, D) that gives centred rows unit covariance.

    Directions with less than `LEAST` of the largest variance are scaled as if they had that much.
    """
    mean, moments = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK].astype(np.float64)
        mean += rows.sum(axis=0)
        moments += rows.T @ rows
    mean /= len(x)
    variances, directions = np.linalg.eigh(moments / len(x) - np.outer(mean, mean))
    widest = max(float(variances[-1]), np.finfo(np.float64).tiny)
    return mean, directions / np.sqrt(np.maximum(variances, LEAST * widest))


def _parts(values: np.ndarray, mean: np.ndarray, spread: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The solver's vector as weights (classes, D) and biases (classes,).

    The solver's vector holds those of whitened rows, which takes a fraction of the iterations.
    """
    table = values.reshape(classes, len(mean) + 1)
    weight = table[:, :-1] @ spread.T
    return weight, table[:, -1] - weight @ mean


def _loss(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, pool: ThreadPoolExecutor
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy in nats and its gradient (classes, D + 1), the biases' in the last column."""
    factors, shift = np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)

    def block(start: int) -> tuple[float, np.ndarray]:
        rows, labels = x[start : start + BLOCK], y[start : start + BLOCK]
        each = np.arange(len(rows))
        z = rows @ factors
        z += shift
        z -= z.max(axis=1, keepdims=True)
        true = z[each, labels].sum(dtype=np.float64)
        np.exp(z, out=z)
        total = z.sum(axis=1, keepdims=True, dtype=np.float64)
        z /= total.astype(np.float32)
        z[each, labels] -= 1
        slope = np.column_stack([z.T @ rows, z.sum(axis=0, dtype=np.float64)])
        return float(np.log(total).sum() - true), slope

    loss, slope = 0.0, np.zeros((len(weight), x.shape[1] + 1))
    for own, part in pool.map(block, range(0, len(x), BLOCK)):
        loss += own
        slope += part
    return loss / len(x), slope / len(x)
