"""An engine whose integer products saturate like those of CPUs without VNNI: pairs of products are added in 16 bits."""

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from quee.export.torch_engine import TorchEngine
from quee.features import GateView
from quee.network.execution import MultiPrecisionBackbone
from quee.quantization.layers import AffineQuantizer, QuantizedConv2d, QuantizedLinear


def saturated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (n, k) from 0 to 255 times b (k, m) of int8, pairs of products saturated at 16 bits."""
    if a.shape[1] % 2:
        a, b = np.pad(a, ((0, 0), (0, 1))), np.pad(b, ((0, 1), (0, 0)))
    found = np.zeros((len(a), b.shape[1]), np.int64)
    for i in range(0, a.shape[1], 2):
        found += np.clip(a[:, i : i + 2] @ b[i : i + 2], -(1 << 15), (1 << 15) - 1)
    return found


class SaturatedProduct:
    """Replaces a layer's product."""

    def __init__(self, layer: QuantizedLinear | QuantizedConv2d) -> None:
        self.weight = layer.weight[:, layer._order()].t().numpy().astype(np.int64)
        self.low = int(layer.input.low)

    def __call__(self, integers: torch.Tensor) -> torch.Tensor:
        rows = integers.reshape(-1, len(self.weight)).numpy().astype(np.int64)
        found = saturated(rows - self.low, self.weight) + self.low * self.weight.sum(axis=0)
        return torch.from_numpy(found.astype(np.float32)).reshape(*integers.shape[:-1], -1)


class SaturatingEngine(TorchEngine):
    def __init__(self, view: GateView) -> None:
        heads = deepcopy(view.heads)
        models = {precision: deepcopy(model) for precision, model in view.backbone.models.items()}
        layers = [layer for head in heads.heads for c in head.classifiers.values() for layer in c.quantized]
        layers += [head.projection for head in heads.heads]
        for layer in [*layers, *(module for model in models.values() for module in model.modules())]:
            if isinstance(layer, QuantizedLinear | QuantizedConv2d) and isinstance(layer.input, AffineQuantizer):
                layer.integer_product = SaturatedProduct(layer)
        assert all(isinstance(layer, nn.Module | None) for layer in layers)
        super().__init__(GateView(MultiPrecisionBackbone(models), heads, view.embedding))
        self.name = "saturating"
