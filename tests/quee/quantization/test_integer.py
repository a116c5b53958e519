"""Integer kernels give the bits of products in float32."""

from copy import deepcopy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quee.network.architectures import create_backbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import QuantizedConv2d, QuantizedLinear, use_integer_kernels
from quee.settings.quantize import QuantizationConfig


def fitted(layer: QuantizedLinear | QuantizedConv2d, low: float, high: float) -> None:
    layer.input.set_range(low, high)
    layer.set_weight(torch.randint(-127, 128, layer.weight.shape), torch.rand(len(layer.weight)) + 0.1, None)
    layer.finalize()


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    rows=st.integers(1, 50),
    bits=st.sampled_from([3, 4, 6, 8]),
    low=st.floats(-9, 3),
    width=st.floats(0.1, 9),
    seed=st.integers(0, 99),
)
def test_a_layer_has_the_same_bits(inputs, outputs, rows, bits, low, width, seed) -> None:
    torch.manual_seed(seed)
    layer = QuantizedLinear(nn.Linear(inputs, outputs), Precision(f"w8a{bits}"))
    fitted(layer, low, low + width)
    x = torch.randn(2, rows, inputs) * 5
    wanted = layer(x)
    assert use_integer_kernels(nn.Sequential(layer)) == 1
    assert torch.equal(layer(x), wanted)


def test_a_convolution_has_the_same_bits() -> None:
    torch.manual_seed(0)
    layer = QuantizedConv2d(nn.Conv2d(3, 10, 3, 2, 1), Precision("w8a8"))
    fitted(layer, -1.0, 3.0)
    x = torch.randn(5, 3, 11, 9)
    wanted = layer(x)
    use_integer_kernels(nn.Sequential(layer))
    assert torch.equal(layer(x), wanted)


def test_a_network_has_the_same_bits_and_only_uniform_grids_change() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", (1, 2), embed_dim=16, depth=2, num_heads=2).requires_grad_(False).eval()
    x = torch.randn(40, 1, 8, 8)
    for name in ("w8a8", "w4a4"):
        model = quantize_(deepcopy(backbone), QuantizationConfig(Precision(name), samples=40), [x])
        wanted = model(x)
        changed = use_integer_kernels(model)
        weighted = [m for m in model.modules() if isinstance(m, QuantizedLinear | QuantizedConv2d)]
        assert 0 < changed <= len(weighted) and (name != "w8a8" or changed == len(weighted))
        assert torch.equal(model(x), wanted)
