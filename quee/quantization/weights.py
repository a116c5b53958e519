"""Weights on integer grids: scales, rounding, and least squares to what the float layer gives; one linear layer alone."""

import numpy as np
import torch
from scipy.linalg import cholesky, solve
from torch import Tensor, nn

from quee.precision import Precision
from quee.quantization.grids import SEARCH_STEPS, search_range
from quee.quantization.layers import AffineQuantizer, QuantizedLinear

DAMPING = 0.01
"""Added to the diagonal of the inputs' second moments, in units of its mean, before they are inverted."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Multiples of the least strength of a ridge regression that are tried."""
COLUMNS = 128
"""Columns whose mutual corrections are applied at once, the later ones' afterwards by one product."""


def quantize_weight(
    weight: Tensor, bits: int, method: str = "mse", importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric integers (out, in) as float32 in ±(2^(bits-1) - 1) and a scale per output channel (out,).

    `mse` searches each channel's scale for the least squared error, weighted per input by `importance` (in,), the mean
    square of the input it multiplies.
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
            error = q.mul_(scale).sub_(flat).square_() @ weights
            better = error < least
            best, least = torch.where(better, scale[:, 0], best), torch.where(better, error, least)
    scale32 = best.float()
    integers = (flat / scale32.double()[:, None]).round().clamp(-limit, limit)
    return integers.float(), scale32


def ridge(weight: np.ndarray, x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """The weight (out, in) nearest to `weight` that gives outputs y (rows, out) on inputs x (rows, in).

    Minimises the mean of |y - W x|² + strength · mean(x²) · |W - weight|², both x and y centred, so that a bias takes
    the mean. In closed form (ERQ, Zhong et al. 2024, first step).
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    moments = x.T @ x / len(x)
    penalty = strength * moments.trace() / len(moments) + 1e-12
    missing = (y - x @ weight.T).T @ x / len(x)  # (out, in)
    change = solve(moments + penalty * np.eye(len(moments)), missing.T, assume_a="pos")
    found: np.ndarray = weight + change.T
    return found


def confirmed_ridge(weight: np.ndarray, x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """`ridge` at that strength or more, as the second half of the rows confirms of a fit on the first.

    Where no fit is better on the second half than `weight` itself, it is kept: few samples cannot tell.
    """
    half = len(x) // 2
    if half < 2:
        return weight

    def error(found: np.ndarray) -> float:
        missing = y[half:] - x[half:] @ found.T
        return float(np.square(missing - missing.mean(axis=0)).sum())

    tried = {strength * factor: 0.0 for factor in STRENGTHS}
    for value in tried:
        tried[value] = error(ridge(weight, x[:half], y[:half], value))
    best = min(tried, key=lambda value: tried[value])
    return ridge(weight, x, y, best) if tried[best] < error(weight) else weight


def round_compensated(
    weight: np.ndarray, scale: np.ndarray, limit: int, moments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Integers (out, in) within ±limit for weights (out, in) and scales (out,), rounded column by column.

    Also returns what was rounded, in steps (out, in).

    The error of a rounded column is absorbed by the columns still to come, where the second moments (in, in) of the
    inputs say that they can. Columns of large inputs come first. (Optimal brain surgeon, as in GPTQ, Frantar et al.
    2023.)
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
    """`linear` at `precision`, its range searched on rows of x (n, in), its mean output error absorbed in the bias.

    Raises QueeError naming the layer when values of x are not finite.
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
