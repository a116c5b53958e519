"""Quantized layers against integer arithmetic, and their independence of batch and threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.network.attention import MatMul
from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import (
    QUANTIZED,
    CodebookQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedMatMul,
    empty_quantized,
    finalize,
    layout,
    quantizable,
)
from quee.settings.quantize import QuantizationConfig

W8A8 = Precision("w8a8")


def linear(weight: Tensor, precision: Precision = W8A8, low: float = 0.0, high: float = 255.0) -> QuantizedLinear:
    layer = QuantizedLinear(nn.Linear(weight.shape[1], weight.shape[0]), precision)
    layer.input.set_range(low, high)
    layer.set_weight(weight, torch.ones(len(weight)), None)
    layer.finalize()
    return layer


def integers(shape: tuple[int, ...], low: int, high: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 700), st.integers(0, 1000), st.sampled_from(["w8a8", "w4a4", "w2a3", "w4a8"]))
def test_linear_equals_int64_arithmetic(width: int, seed: int, name: str) -> None:
    precision = Precision(name)
    limit, levels = 2 ** (precision.weight_bits - 1) - 1, 2**precision.activation_bits - 1
    weight, x = integers((5, width), -limit, limit, seed), integers((7, width), 0, levels, seed + 1)
    layer = linear(weight, precision, 0.0, float(levels))
    assert torch.equal(layer(x.float()), (x @ weight.t()).float())


@pytest.mark.parametrize("width", [518, 519, 3072, 20_000])
def test_reductions_beyond_2_to_the_24_are_exact(width: int) -> None:
    weight, x = integers((4, width), 100, 127), integers((6, width), 200, 255)
    weight[1] *= -1
    exact = x @ weight.t()
    assert int(exact.abs().max()) > 2**24 or width < 600
    assert torch.equal(linear(weight)(x.float()), exact.float())


def test_reductions_are_split_where_the_large_weights_are() -> None:
    weight, x = torch.zeros(3, 20_000, dtype=torch.int64), integers((50, 20_000), 129, 255)
    weight[0, :3000], weight[1, 9000:12_000], weight[2, -3000:] = 127, -125, 127
    assert torch.equal(linear(weight)(x.float()), (x @ weight.t()).float())


def test_scales_and_bias_are_applied_after_the_exact_sum() -> None:
    weight = integers((3, 16), -7, 7)
    layer = QuantizedLinear(nn.Linear(16, 3), Precision("w4a4"))
    layer.input.set_range(-0.5, 1.0)
    scale, bias = torch.tensor([0.5, 0.25, 2.0]), torch.tensor([1.0, -1.0, 0.0])
    layer.set_weight(weight, scale, bias)
    layer.finalize()
    x = torch.linspace(-1, 2, 160).reshape(10, 16)
    step = layer.input.scale
    q = ((x / step).round() + 5).clamp(0, 15).long() - 5
    assert torch.equal(layer(x), (q @ weight.t()).float() * (step * scale) + bias)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
    ],
)
def test_convolution_equals_int64_arithmetic(options: dict[str, int]) -> None:
    conv = nn.Conv2d(3, 5, **options)
    layer = QuantizedConv2d(conv, W8A8)
    layer.input.set_range(0.0, 255.0)
    weight, x = integers(tuple(conv.weight.shape), -127, 127), integers((2, 3, 9, 8), 0, 255)
    layer.set_weight(weight.flatten(1), torch.ones(5), None)
    layer.finalize()
    expected = functional.conv2d(x.double(), weight.double(), None, conv.stride, conv.padding, conv.dilation)
    assert torch.equal(layer(x.float()).double(), expected)


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
def test_padding_is_quantized_as_zero_is_where_no_level_is_zero(layout: str) -> None:
    layer = QuantizedConv2d(nn.Conv2d(3, 5, 3, 2, 1), Precision("w4a3"), "codebook")
    assert isinstance(layer.input, CodebookQuantizer)
    layer.input.set_levels(np.array([-40, -9, 3, 20, 50, 90, 120, 200]), 0.5)
    weight = integers((5, 27), -7, 7).float()
    layer.set_weight(weight, torch.ones(5), None)
    layer.finalize()
    x = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(0)) * 50
    padded = functional.pad(x, (1, 1, 1, 1))
    expected = functional.conv2d(layer.input(padded).double(), weight.view(5, 3, 3, 3).double(), stride=2) * 0.5
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    assert torch.equal(layer(x).double(), expected)


@pytest.mark.parametrize("width", [16, 258, 259, 1000])
def test_product_of_activations_equals_int64_arithmetic(width: int) -> None:
    layer = QuantizedMatMul(W8A8)
    layer.a.set_range(0.0, 255.0)
    layer.b.set_range(0.0, 255.0)
    a, b = integers((2, 3, 4, width), 200, 255), integers((2, 3, width, 5), 201, 255, 1)
    assert torch.equal(layer(a.float(), b.float()), (a.double() @ b.double()).float())


def test_a_convolution_that_is_not_handled_is_refused() -> None:
    with pytest.raises(QueeError, match="groups=2"):
        QuantizedConv2d(nn.Conv2d(4, 4, 3, groups=2), W8A8)
    with pytest.raises(QueeError, match="'same'"):
        QuantizedConv2d(nn.Conv2d(4, 4, 3, padding="same"), W8A8)


def test_a_layer_with_a_weight_that_nothing_quantizes_is_named() -> None:
    with pytest.raises(QueeError, match="1: nothing quantizes a Embedding"):
        quantizable(nn.Sequential(nn.Linear(2, 2), nn.Embedding(3, 2)))


def test_products_in_floating_point_stay_as_they_are() -> None:
    model = nn.ModuleDict({"a": MatMul("attention"), "b": MatMul("float"), "c": nn.Linear(2, 2), "d": nn.LayerNorm(2)})
    assert sorted(quantizable(model)) == ["a", "c"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(70, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def float_backbone() -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("vit_digits", embed_dim=32, depth=4)


@pytest.fixture(scope="module", params=["w8a8", "w3a3"])
def backbone(request: pytest.FixtureRequest, float_backbone: SegmentedBackbone, images: Tensor) -> SegmentedBackbone:
    torch.manual_seed(0)
    copy = create_backbone("vit_digits", embed_dim=32, depth=4)
    copy.load_state_dict(float_backbone.state_dict())
    quantize_(copy, QuantizationConfig(Precision(request.param)), [images[:32]])
    return copy


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def states(backbone: SegmentedBackbone, images: Tensor) -> list[Tensor]:
    """The state at every gate, and the logits."""
    found = [images]
    for segment in range(1, backbone.segments + 1):
        found.append(backbone.run_segment(segment, found[-1]))
    return [*found[1:], backbone.classify(found[-1])]


@pytest.mark.parametrize("size", [1, 3, 8, 33])
def test_quantized_segments_do_not_depend_on_the_batch(backbone: SegmentedBackbone, images: Tensor, size: int) -> None:
    whole = states(backbone, images)
    parts = [states(backbone, part) for part in images.split(size)]
    for index, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), expected)


def test_every_layer_of_a_calibrated_network_equals_int64_arithmetic(
    backbone: SegmentedBackbone, images: Tensor
) -> None:
    seen: list[str] = []

    def check(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, QuantizedMatMul):
            product = module.a(inputs[0]).long() @ module.b(inputs[1]).long()
            expected = product.float() * (module.a.scale * module.b.scale)
        else:
            assert isinstance(module, QuantizedLinear | QuantizedConv2d)
            x = inputs[0]
            if isinstance(module, QuantizedConv2d):
                assert not isinstance(module.padding, str)
                x = functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
                x = x.transpose(1, 2)
            integers = module.input(x)
            assert torch.equal(integers, integers.round())
            product = integers.long() @ module.weight.long().t()
            expected = product.float() * (module.input.scale * module.weight_scale) + module.bias
            if isinstance(module, QuantizedConv2d):
                expected = expected.transpose(1, 2).reshape(output.shape)
        seen.append(type(module).__name__)
        assert torch.equal(output, expected)

    handles = [m.register_forward_hook(check) for m in backbone.modules() if isinstance(m, QUANTIZED)]
    try:
        states(backbone, images[:8])
    finally:
        for handle in handles:
            handle.remove()
    assert {kind: seen.count(kind) for kind in sorted(set(seen))} == {
        "QuantizedConv2d": 1,
        "QuantizedLinear": 4 * 4 + 1,
        "QuantizedMatMul": 4 * 2,
    }


@pytest.mark.usefixtures("threads")
def test_quantized_segments_do_not_depend_on_threads(backbone: SegmentedBackbone, images: Tensor) -> None:
    torch.set_num_threads(1)
    alone = states(backbone, images)
    for count in (2, 3):
        torch.set_num_threads(count)
        assert all(torch.equal(a, b) for a, b in zip(alone, states(backbone, images), strict=True))


def test_a_stored_network_executes_as_the_one_that_was_stored(backbone: SegmentedBackbone, images: Tensor) -> None:
    loaded = empty_quantized(create_backbone("vit_digits", embed_dim=32, depth=4), layout(backbone))
    loaded.load_state_dict(backbone.state_dict())
    finalize(loaded)
    assert torch.equal(states(loaded, images[:5])[-1], states(backbone, images[:5])[-1])


def test_the_head_is_executed_at_w8a8(backbone: SegmentedBackbone) -> None:
    assert str(backbone.get_submodule("head").precision) == "w8a8"
    stored = {name: value.dtype for name, value in backbone.state_dict().items() if name.endswith("qkv.weight")}
    assert len(stored) == 4
    assert set(stored.values()) == {torch.int8}
