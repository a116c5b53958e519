"""Integer products by a device's 8-bit integer kernels, where PyTorch has them; the same bits as in float32.

Everywhere else integers are multiplied as floats, which is exact and runs on anything (`quee.quantization.layers`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from quee.quantization.layers import QuantizedConv2d, QuantizedLinear
from quee.quantization.quantizers import AffineQuantizer

MULTIPLE = 8
"""Widths are padded to a multiple of this, as the kernels require."""
ROWS = 32
"""Rows that the kernels need at least."""


class IntegerProduct:
    """A layer's product (…, in) @ (in, out) of integers of up to 8 bits, in int32, returned as float32.

    Activations lie within 256 neighbouring integers, not always those of int8: they are shifted, and what the shift
    takes from the sums, the same in every row, is added again.
    """

    def __init__(self, layer: QuantizedLinear | QuantizedConv2d) -> None:
        weight = layer.weight[:, layer._order()]  # (out, in)
        self.outputs, self.inputs = weight.shape
        self.shift = layer.input.low + 128
        self.added = int(self.shift) * weight.sum(dim=1, dtype=torch.int32)
        # Stored by output: the kernels want the second factor's columns contiguous.
        self.weight = functional.pad(weight, (0, -self.inputs % MULTIPLE, 0, -self.outputs % MULTIPLE)).contiguous().t()

    def __call__(self, integers: Tensor) -> Tensor:
        rows = integers.reshape(-1, self.inputs)
        missing = max(ROWS, -(-len(rows) // MULTIPLE) * MULTIPLE) - len(rows)
        given = functional.pad((rows - self.shift).to(torch.int8), (0, -self.inputs % MULTIPLE, 0, missing))
        found = torch._int_mm(given, self.weight)[: len(rows), : self.outputs] + self.added
        return found.float().reshape(*integers.shape[:-1], self.outputs)


def use_integer_kernels(model: nn.Module) -> int:
    """Have quantized layers with weights multiply by integer kernels from now on; how many do.

    To be called once the model is on its device. Layers whose activations are not evenly spaced stay as they are.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, QuantizedLinear | QuantizedConv2d) and isinstance(layer.input, AffineQuantizer)
    ]
    for layer in layers:
        layer.integer_product = IntegerProduct(layer)
    return len(layers)
