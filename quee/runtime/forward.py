"""A predictor's network without PyTorch: the same bits, at a tenth of the time for a few samples.

Its products are of integers and exact in float32 whatever adds them up and in whichever parts; everything beside them is
one rounding per element, in the same order. For a few samples the time is that of the calls, so that there are few: what
a prefix adds to the first product is the same for all samples that came that way, and limits are applied once, to integers.
"""

import numpy as np

from quee.predictors import CLIP, Network
from quee.quantization import AffineQuantizer, QuantizedLinear


class _Layer:
    """A layer whose inputs are clipped to ± `clip`, or, where that is None, at least 0."""

    def __init__(self, layer: QuantizedLinear, clip: float | None) -> None:
        quantizer = layer.input
        self.step = np.float32(quantizer.scale)
        self.low, self.high = np.float32(quantizer.low), np.float32(quantizer.high)
        self.positive = clip is None and self.low <= 0
        if clip is not None:  # rounding keeps order: limits of the input are limits of its integers
            end = np.rint(np.float32(clip) / self.step)
            self.low, self.high = np.maximum(self.low, -end), np.minimum(self.high, end)
        self.weight = np.ascontiguousarray(layer.weight.numpy().T, np.float32)  # (in, out)
        self.scale = (quantizer.scale * layer.weight_scale).numpy().copy()  # (out,)
        self.bias = layer.bias.numpy().copy()

    def integers(self, x: np.ndarray) -> np.ndarray:
        """Of inputs (n, in), float32."""
        x = x / self.step
        np.rint(x, out=x)
        if not self.positive:
            np.maximum(x, self.low, out=x)
        np.minimum(x, self.high, out=x)
        return x

    def rescaled(self, sums: np.ndarray) -> np.ndarray:
        """(n, out) of sums of integer products, overwritten."""
        sums *= self.scale
        sums += self.bias
        return sums


class Forward:
    """`Network` on inputs of which the last columns are one of a few prefixes: hidden units and logits in one pass."""

    def __init__(self, network: Network, prefixes: np.ndarray) -> None:
        """`prefixes` (P, p), float32."""
        self.network, self.prefixes = network, prefixes
        layers = (network.first, network.last)
        # Wide layers add their products up in parts, and their grids may be others: PyTorch does those.
        self.plain = all(isinstance(x.input, AffineQuantizer) and x._size >= x.weight.shape[1] for x in layers)
        if self.plain:
            before = len(network.mean) - prefixes.shape[1]
            first, self.last = _Layer(network.first, CLIP), _Layer(network.last, None)
            z = ((prefixes - network.mean[before:]) / network.scale[before:]).astype(np.float32)
            self.added = first.integers(z) @ first.weight[before:]  # (P, H)
            first.weight = first.weight[:before]
            self.first, self.mean, self.scale = first, network.mean[:before], network.scale[:before]

    def __call__(self, x: np.ndarray, prefix: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, D - p) and rows (n,) of the prefixes, or one for all: hidden units (n, H) and logits, float32."""
        if not self.plain:
            rows = np.broadcast_to(prefix, len(x))
            whole = np.concatenate([x, self.prefixes[rows]], axis=1)
            return self.network.hidden(whole), self.network(whole)
        z = x - self.mean
        z /= self.scale
        sums = self.first.integers(z.astype(np.float32)) @ self.first.weight
        sums += self.added[prefix]
        hidden = self.first.rescaled(sums)
        np.maximum(hidden, np.float32(0), out=hidden)
        return hidden, self.last.rescaled(self.last.integers(hidden) @ self.last.weight)
