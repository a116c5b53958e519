"""Quantizers of activations: what they make of a tensor are integers, to be multiplied by their `scale`."""

import numpy as np
import torch
from torch import Tensor, nn


class AffineQuantizer(nn.Module):
    """Per-tensor asymmetric quantizer of activations to `bits` bits.

    A value x becomes the integer clamp(round(x / scale), -zero_point, 2^bits - 1 - zero_point): the usual
    quantized value less its zero point. Rounding is half to even, as in ONNX's QuantizeLinear.
    """

    kind = "affine"
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


class CodebookQuantizer(nn.Module):
    """Quantizer to 2^bits levels that need not be evenly spaced: powers of a base, two ranges.

    The levels are integers of a few more bits (fixed point), so that products with them stay integer products, exact
    in float32 and independent of batch and threads. A value is rounded to fixed point, and that takes the nearest
    level, one half-way the lower: a table, no search.
    """

    kind = "codebook"
    scale: Tensor
    levels: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("levels", torch.arange(2**bits, dtype=torch.int16))
        self.finalize()

    def set_levels(self, levels: np.ndarray, scale: float) -> "CodebookQuantizer":
        """At most 2^bits distinct integers within ±2^15, and the step they count in."""
        distinct = np.unique(np.rint(levels)).astype(np.int16)
        filled = np.full(2**self.bits, distinct[-1], np.int16)
        filled[: len(distinct)] = distinct
        self.levels.copy_(torch.from_numpy(filled))
        self.scale.fill_(scale)
        return self.finalize()

    def finalize(self) -> "CodebookQuantizer":
        """Derive the table from fixed-point values to levels (after loading)."""
        levels = np.unique(self.levels.cpu().numpy().astype(np.int64))
        nearest = np.searchsorted(levels[1:] + levels[:-1], 2 * np.arange(levels[0], levels[-1] + 1))
        self.low, self.high = float(levels[0]), float(levels[-1])
        self._table = torch.from_numpy(levels[nearest].astype(np.float32)).to(self.levels.device)
        return self

    @property
    def largest(self) -> float:
        """Largest magnitude of an integer this quantizer produces."""
        return max(-self.low, self.high)

    def forward(self, x: Tensor) -> Tensor:
        """Integers as float32, of x's shape; multiply by `scale` to dequantize."""
        fixed = torch.div(x, self.scale).round_().clamp_(self.low, self.high).sub_(self.low)
        return self._table.index_select(0, fixed.flatten().int()).view(x.shape)


Quantizer = AffineQuantizer | CodebookQuantizer
QUANTIZERS = ("affine", "codebook")


def make_quantizer(kind: str, bits: int) -> Quantizer:
    return CodebookQuantizer(bits) if kind == "codebook" else AffineQuantizer(bits)
