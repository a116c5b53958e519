"""Weights on integer grids: scales, rounding, and least squares to the float layer's output; quantizing one linear layer."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.linalg import cholesky, solve
from torch import Tensor, nn

from quee.precision import Precision
from quee.quantization.grids import SEARCH_STEPS, search_range
from quee.quantization.layers import AffineQuantizer, QuantizedLinear

DAMPING = 0.01
"""Damping: added to the diagonal of the inputs' second moments, in units of its mean, before they are inverted."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Multiples of a ridge regression's least strength to try."""
COLUMNS = 128
"""Columns per block of corrections; one product then applies a block's corrections to all later columns."""


def quantize_weight(
    weight: Tensor, bits: int, method: str = "mse", importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric integers (out, in) as float32 in ±(2^(bits-1) - 1) and a scale per output channel (out,).

    `mse` searches each channel's scale for the least squared error, weighted per input by `importance`, the input's mean
    square: (in,), or (out, in) where outputs have inputs of their own.
    """
    limit = 2 ** (bits - 1) - 1
    flat = weight.detach().double().flatten(1)
    full = flat.abs().amax(dim=1).clamp_min(1e-12) / limit
    best = full.clone()
    if method == "mse":
        weights = torch.ones(flat.shape[1], dtype=torch.float64) if importance is None else importance.double()
        least = torch.full_like(full, torch.inf)
        for factor in np.linspace(1.0, 0.25, 2 * SEARCH_STEPS):
            scale = (full * float(factor))[:, None]
            q = (flat / scale).round_().clamp_(-limit, limit)
            squares = q.mul_(scale).sub_(flat).square_()
            error = squares @ weights if weights.dim() == 1 else squares.mul_(weights).sum(dim=1)
            better = error < least
            best, least = torch.where(better, scale[:, 0], best), torch.where(better, error, least)
    scale32 = best.float()
    integers = (flat / scale32.double()[:, None]).round().clamp(-limit, limit)
    return integers.float(), scale32


def ridge(weight: np.ndarray, x: np.ndarray, y: np.ndarray, *strengths: float) -> Iterator[np.ndarray]:
    """For each strength a weight (out, in) near `weight` that gives outputs y (rows, out) on inputs x (rows, in), least squares.

    Minimises the mean of |y - W x|² + strength · mean(x²) · |W - weight|² in closed form (ERQ, Zhong et al. 2024, first
    step). x and y are centred, because a bias takes the mean.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    moments = x.T @ x / len(x)
    missing = (y - x @ weight.T).T @ x / len(x)  # (out, in)
    for strength in strengths:
        penalty = strength * moments.trace() / len(moments) + 1e-12
        yield weight + solve(moments + penalty * np.eye(len(moments)), missing.T, assume_a="pos").T


def confirmed_ridge(weight: np.ndarray, x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """`ridge` at that strength or more; the strength is chosen by a fit on the first half of the rows, tested on the second.

    `weight` is kept where no fit is better than it on the second half.
    """
    half = len(x) // 2
    if half < 2:
        return weight

    def error(found: np.ndarray) -> float:
        missing = y[half:] - x[half:] @ found.T
        return float(np.square(missing - missing.mean(axis=0)).sum())

    values = [strength * factor for factor in STRENGTHS]
    errors = [error(found) for found in ridge(weight, x[:half], y[:half], *values)]
    best = int(np.argmin(errors))
    return next(ridge(weight, x, y, values[best])) if errors[best] < error(weight) else weight


def round_compensated(
    weight: np.ndarray, scale: np.ndarray, limit: int, moments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Integers (out, in) within ±limit for weights (out, in) and scales (out,), rounded column by column.

    Also returns the values before rounding, in steps (out, in).

    The remaining columns absorb the error of a rounded column, as far as the second moments (in, in) of the inputs
    allow. Columns of large inputs come first. (Optimal brain surgeon, as in GPTQ, Frantar et al. 2023.)
    """
    width = weight.shape[1]
    mean = moments.trace() / width
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + (DAMPING * mean + 1e-12) * np.eye(width)
    upper = cholesky(np.linalg.inv(damped), lower=False)
    left, integers, latent = weight[:, order].copy(), np.empty_like(weight), np.empty_like(weight)
    for start in range(0, width, COLUMNS):
        end = min(start + COLUMNS, width)
        errors = np.empty((len(weight), end - start))
        for i in range(start, end):
            latent[:, order[i]] = left[:, i] / scale
            q = np.clip(np.rint(latent[:, order[i]]), -limit, limit)
            errors[:, i - start] = error = (left[:, i] - q * scale) / upper[i, i]
            left[:, i + 1 : end] -= np.outer(error, upper[i, i + 1 : end])
            integers[:, order[i]] = q
        left[:, end:] -= errors @ upper[start:end, end:]
    return integers, latent


ROWS = 1024


def quantize_linear(linear: nn.Linear, x: Tensor, precision: Precision, name: str) -> QuantizedLinear:
    """`linear` at `precision`: the range is searched on rows x (n, in), and the bias absorbs the mean output error.

    Raises QueeError naming the layer where values of x are not finite.
    """
    quantized = QuantizedLinear(linear, precision)
    x = x[:: max(1, len(x) // ROWS)]
    assert isinstance(quantized.input, AffineQuantizer)
    quantized.input.set_range(*search_range(x.numpy(), precision.activation_bits, "mse", name))
    quantized.set_weight(*quantize_weight(linear.weight, precision.weight_bits), linear.bias)
    quantized.finalize()
    with torch.inference_mode():
        wanted = x.double() @ linear.weight.double().t() + (0 if linear.bias is None else linear.bias.double())
        quantized.bias.add_((wanted - quantized(x).double()).mean(dim=0).float())
    return quantized
