"""One linear layer by itself, quantized on the inputs it will see: exit heads, embeddings, predictors."""

import torch
from torch import Tensor, nn

from quee.precision import Precision
from quee.quantization.layers import QuantizedLinear
from quee.quantization.quantizers import AffineQuantizer
from quee.quantization.search import search_range
from quee.quantization.weights import quantize_weight

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
