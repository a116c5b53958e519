"""Uniform quantizers and the search of their scales."""

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import QueeError

SEARCH_STEPS = 40
"""Candidate clipping ranges tried by a search."""


class AffineQuantizer(nn.Module):
    """Per-tensor asymmetric quantizer of activations to `bits` bits.

    A value x becomes the integer clamp(round(x / scale), -zero_point, 2^bits - 1 - zero_point): the usual
    quantized value less its zero point. Rounding is half to even, as in ONNX's QuantizeLinear.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.low, self.high = 0.0, float(2**bits - 1)

    def set_range(self, low: float, high: float) -> "AffineQuantizer":
        """Cover [low, high], widened to include zero; zero itself is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        levels = 2**self.bits - 1
        scale = max((high - low) / levels, float(np.finfo(np.float32).tiny))
        self.scale.fill_(scale)
        self.zero_point.fill_(int(np.clip(np.rint(-low / scale), 0, levels)))
        return self.finalize()

    def finalize(self) -> "AffineQuantizer":
        """Derive the clamping bounds from the buffers (after loading)."""
        zero_point = int(self.zero_point)
        self.low, self.high = float(-zero_point), float(2**self.bits - 1 - zero_point)
        return self

    @property
    def largest(self) -> float:
        """Largest magnitude of an integer this quantizer produces."""
        return max(-self.low, self.high)

    def forward(self, x: Tensor) -> Tensor:
        """Integers as float32, of x's shape; multiply by `scale` to dequantize."""
        return torch.div(x, self.scale).round_().clamp_(self.low, self.high)


def search_range(values: np.ndarray, bits: int, method: str, name: str) -> tuple[float, float]:
    """Clipping range for activation values (any shape).

    `minmax` takes all; `percentile` the least squared error over a few quantiles; `mse` over shrunken ranges, the two
    ends searched in turn. Raises QueeError naming the layer when values are absent or not finite.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    if not values.size:
        raise QueeError(f"{name}: no calibration values")
    if not np.isfinite(values).all():
        raise QueeError(f"{name}: calibration values contain NaN or infinity")
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if method == "minmax" or low == high:
        return low, high

    def error(a: float, b: float) -> float:
        scale = (b - a) / (2**bits - 1)
        zero = np.rint(-a / scale)
        q = np.clip(np.rint(values / scale), -zero, 2**bits - 1 - zero)
        return float(np.square(q * scale - values).sum())

    if method == "percentile":
        tails = (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2)
        ends = [(min(float(np.quantile(values, t)), 0.0), max(float(np.quantile(values, 1 - t)), 0.0)) for t in tails]
        return min((end for end in ends if end[1] > end[0]), key=lambda end: error(*end))
    shrink = np.linspace(1.0, 0.15, SEARCH_STEPS)
    factor = min(shrink, key=lambda f: error(low * f, high * f))
    low, high = low * float(factor), high * float(factor)
    for _ in range(2):
        if low < 0:
            candidates = low * np.linspace(1.3, 0.3, 21)
            low = float(min(candidates, key=lambda a: error(float(a), high)))
        candidates = high * np.linspace(1.3, 0.3, 21)
        high = float(min(candidates, key=lambda b: error(low, float(b)))) if high > 0 else high
    return low, high


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
            q = (flat / scale).round().clamp(-limit, limit)
            error = ((q * scale - flat).square() * weights).sum(dim=1)
            better = error < least
            best, least = torch.where(better, scale[:, 0], best), torch.where(better, error, least)
    scale32 = best.float()
    integers = (flat / scale32.double()[:, None]).round().clamp(-limit, limit)
    return integers.float(), scale32
