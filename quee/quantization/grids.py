"""Search of activation grids: ranges of uniform grids, and grids of powers and of two ranges."""

from collections.abc import Callable, Iterator

import numpy as np

from quee.errors import QueeError
from quee.evenly import evenly
from quee.quantization.layers import AffineQuantizer, CodebookQuantizer, Quantizer
from quee.work.registry import Registry

SEARCH_STEPS = 40
"""Number of candidate clipping ranges in a search."""
GROUPS = 1024
"""Number of groups of equal size that sorted values are put into before a search; extreme values stay single."""
TAIL = 64
VALUES = 1 << 15
"""Most values of a tensor that a search uses."""
LEVEL_BITS = {"log": 12, "two_range": 9, "shifted_log": 10}
"""Fixed-point bits of the levels of a grid."""
GELU_LEAST = 0.17
"""GELU's least value is about −0.17."""


class Sample:
    """Values of one tensor, sorted and grouped: `values` (m,) rising and `weights` (m,) of their squared errors."""

    def __init__(self, values: np.ndarray, weights: np.ndarray | None = None, name: str = "layer") -> None:
        """`values` of any shape; `weights` broadcast against it. Raises QueeError naming the layer for bad values."""
        values = np.asarray(values, dtype=np.float64)
        if not values.size:
            raise QueeError(f"{name}: no calibration values")
        if not np.isfinite(values).all():
            raise QueeError(f"{name}: calibration values contain NaN or infinity")
        if weights is None:
            flat = np.sort(values, axis=None)
            weight = np.ones_like(flat)
        else:
            flat = values.ravel()
            order = np.argsort(flat, kind="stable")
            weight = np.maximum(np.broadcast_to(weights, values.shape).ravel()[order], 1e-300)
            flat = flat[order]
        inner = len(flat) - 2 * TAIL
        if inner <= GROUPS:
            self.values, self.weights = flat, weight
            return
        starts = np.linspace(TAIL, len(flat) - TAIL, GROUPS, endpoint=False).astype(np.int64)
        starts = np.concatenate([np.arange(TAIL), starts, np.arange(len(flat) - TAIL, len(flat))])
        self.weights = np.add.reduceat(weight, starts)
        self.values = np.add.reduceat(weight * flat, starts) / self.weights

    def uniform_errors(self, low: np.ndarray, high: np.ndarray, bits: int) -> np.ndarray:
        """Weighted squared error (candidates,) of uniform grids over [low, high]."""
        scale = np.maximum((high - low) / (2**bits - 1), np.finfo(np.float32).tiny)[:, None]
        zero = np.rint(-low[:, None] / scale)
        q = np.clip(np.rint(self.values / scale), -zero, 2**bits - 1 - zero)
        return np.square(q * scale - self.values) @ self.weights

    def level_error(self, levels: np.ndarray) -> float:
        """Weighted squared error of a grid of levels (m,), rising."""
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, self.values)
        return float(np.square(levels[nearest] - self.values) @ self.weights)

    @property
    def ends(self) -> tuple[float, float]:
        return min(float(self.values[0]), 0.0), max(float(self.values[-1]), 0.0)


RANGES: Registry[Callable[[Sample, int], tuple[float, float]]] = Registry("range search")
"""Searches of the range of a uniform grid, by name."""


@RANGES.register("minmax")
def minmax(sample: Sample, bits: int) -> tuple[float, float]:
    """All values."""
    return sample.ends


@RANGES.register("percentile")
def percentile(sample: Sample, bits: int) -> tuple[float, float]:
    """The least error over a few quantiles."""
    share = np.cumsum(sample.weights) / sample.weights.sum()
    ends = [sample.ends]
    for tail in (1e-5, 1e-4, 1e-3, 3e-3, 1e-2):
        first, last = np.minimum(np.searchsorted(share, [tail, 1 - tail]), len(share) - 1)
        ends.append((min(float(sample.values[first]), 0.0), max(float(sample.values[last]), 0.0)))
    ends = [end for end in ends if end[1] > end[0]]
    low, high = np.array(ends).T
    return ends[int(sample.uniform_errors(low, high, bits).argmin())]


@RANGES.register("mse")
def mse(sample: Sample, bits: int) -> tuple[float, float]:
    """The least error over shrunken ranges, then over each end in turn."""
    low, high = sample.ends
    shrink = np.linspace(1.0, 0.15, SEARCH_STEPS)
    factor = shrink[sample.uniform_errors(low * shrink, high * shrink, bits).argmin()]
    low, high = float(low * factor), float(high * factor)
    around = np.linspace(1.3, 0.3, 21)
    around[np.abs(around - 1).argmin()] = 1.0  # keep the range found if nothing is better
    for _ in range(2):
        if low < 0:
            low = float((low * around)[sample.uniform_errors(low * around, np.full(21, high), bits).argmin()])
        if high > 0:
            high = float((high * around)[sample.uniform_errors(np.full(21, low), high * around, bits).argmin()])
    return low, high


def search_range(
    values: np.ndarray, bits: int, method: str, name: str, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Clipping range for activation values (any shape), widened to hold zero.

    `weights` of the squared errors broadcast against the values. Raises QueeError naming the layer when values are
    absent or not finite.
    """
    sample = Sample(values, weights, name)
    low, high = sample.ends
    return (low, high) if low == high else RANGES[method](sample, bits)


GRIDS: Registry[Callable[[Sample, int], Iterator[np.ndarray]]] = Registry("grid")
"""Families of grids that are not uniform: candidates as rising levels, in units of the values."""


@GRIDS.register("log")
def log_grids(sample: Sample, bits: int) -> Iterator[np.ndarray]:
    """Zero and the powers top · base^-q; base and top are searched (AdaLog; RepQ-ViT fixes base √2)."""
    high = sample.ends[1]
    powers = np.arange(2**bits - 1)[::-1]
    for exponent in (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0):
        for top in (1.0, 0.85, 0.7, 0.55, 0.4, 0.3):
            yield np.concatenate([[0.0], high * top * 2.0 ** (-exponent * powers)])


@GRIDS.register("two_range")
def two_range_grids(sample: Sample, bits: int) -> Iterator[np.ndarray]:
    """A fine step below zero and a step 2^m times as large above; both share the codes (after PTQ4ViT)."""
    low, high = sample.ends
    for below in {2 ** (bits - 1), 2 ** (bits - 2), 3 * 2 ** (bits - 3), max(1, 2 ** (bits - 3)), 1}:
        above = 2**bits - 1 - below
        for shrink in np.linspace(1.0, 0.3, 15):
            step = high * shrink / above
            for exponent in range(1, 6):
                fine = step / 2**exponent
                if fine * below < 2 * max(-low, fine):
                    yield np.concatenate([-fine * np.arange(below, 0, -1), step * np.arange(above + 1)])


@GRIDS.register("shifted_log")
def shifted_log_grids(sample: Sample, bits: int) -> Iterator[np.ndarray]:
    """Powers of a searched base, shifted to start at GELU's least value (I&S-ViT, AdaLog)."""
    low, high = sample.ends
    shift = min(-low, GELU_LEAST)
    powers = np.arange(2**bits - 1)[::-1]
    for exponent in (0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0):
        for top in (1.0, 0.8, 0.65, 0.5, 0.4):
            yield np.concatenate([[0.0], (high * top + shift) * 2.0 ** (-exponent * powers)]) - shift


def search_quantizer(
    values: np.ndarray,
    bits: int,
    method: str,
    name: str,
    weights: np.ndarray | None = None,
    families: tuple[str, ...] = (),
) -> Quantizer:
    """The quantizer of least error: uniform by the range search `method`, or a grid of one of the families."""
    sample = Sample(values, weights, name)
    low, high = sample.ends
    chosen = (low, high) if low == high else RANGES[method](sample, bits)
    uniform = AffineQuantizer(bits).set_range(*chosen)
    if low == high:
        return uniform
    least = float(sample.uniform_errors(np.array(chosen[:1]), np.array(chosen[1:]), bits)[0])
    best: Quantizer = uniform
    for family in families:
        for levels in GRIDS[family](sample, bits):
            if sample.level_error(levels) >= least:
                continue
            scale = float(np.abs(levels).max()) / (2 ** LEVEL_BITS[family] - 1)
            integers = np.rint(levels / scale)
            if (error := sample.level_error(integers * scale)) < least:
                best, least = CodebookQuantizer(bits).set_levels(integers, scale), error
    return best


def thinned(rows: np.ndarray, most: int = VALUES) -> np.ndarray:
    """An evenly spread choice of rows (rows, features) with about `most` values."""
    keep = max(1, most // max(rows.shape[1], 1))
    return rows if len(rows) <= keep else rows[evenly(len(rows), keep)]
