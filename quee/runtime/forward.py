"""A predictor's network without PyTorch: the same bits, at a tenth of the time for a few samples.

Its products are of integers and exact in float32 whatever adds them up; everything beside them is one rounding per
element, in the same order.
"""

import numpy as np

from quee.predictors import CLIP, Network
from quee.quantization import AffineQuantizer, QuantizedLinear


class _Layer:
    def __init__(self, layer: QuantizedLinear) -> None:
        quantizer = layer.input
        self.step = np.float32(quantizer.scale)
        self.low, self.high = np.float32(quantizer.low), np.float32(quantizer.high)
        self.weight = np.ascontiguousarray(layer.weight.numpy().T, np.float32)  # (in, out)
        self.scale = (quantizer.scale * layer.weight_scale).numpy().copy()  # (out,)
        self.bias = layer.bias.numpy().copy()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, in), float32, overwritten, to (n, out)."""
        x /= self.step
        np.rint(x, out=x)
        np.maximum(x, self.low, out=x)
        np.minimum(x, self.high, out=x)
        found: np.ndarray = x @ self.weight
        found *= self.scale
        found += self.bias
        return found


class Forward:
    """`Network` on inputs (n, D): hidden units and logits in one pass."""

    def __init__(self, network: Network) -> None:
        self.network = network
        layers = (network.first, network.last)
        # Wide layers add their products up in parts, and their grids may be others: PyTorch does those.
        self.plain = all(isinstance(x.input, AffineQuantizer) and x._size >= x.weight.shape[1] for x in layers)
        if self.plain:
            self.mean, self.scale = network.mean, network.scale
            self.first, self.last = (_Layer(layer) for layer in layers)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, D) to hidden units (n, H) and logits (n, outputs), float32."""
        if not self.plain:
            return self.network.hidden(x), self.network(x)
        z = x - self.mean
        z /= self.scale
        np.maximum(z, -CLIP, out=z)
        np.minimum(z, CLIP, out=z)
        hidden = self.first(z.astype(np.float32))
        np.maximum(hidden, np.float32(0), out=hidden)
        return hidden, self.last(hidden.copy())
