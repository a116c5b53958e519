"""Uniform quantizers, quantized layers against integer arithmetic, integer kernels, layers with bits of their own."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from uneven import drawn

from quee.cost import bitflops, trace_cost
from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.network.attention import MatMul
from quee.network.base import SegmentedBackbone
from quee.network.convolution import Conv2dSame
from quee.precision import Precision
from quee.quantization import layers as layers_module
from quee.quantization.calibration import quantize_
from quee.quantization.layers import (
    BLOCK,
    QUANTIZED,
    AffineQuantizer,
    CodebookQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedMatMul,
    direct_is_exact,
    empty_quantized,
    finalize,
    layout,
    own_layers,
    quantizable,
    resolved,
    use_integer_kernels,
)
from quee.settings.quantize import QuantizationConfig

W8A8 = Precision("w8a8")
bits = st.integers(2, 8)
ends = st.floats(-1e4, 1e4, width=32)
seeds = st.integers(0, 2**16)


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
        {"kernel_size": 3, "groups": 2, "padding": 1},
        {"kernel_size": (5, 3), "groups": 4, "padding": (2, 0), "stride": 2},
        {"kernel_size": 1, "groups": 2},
    ],
)
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_convolution_equals_int64_arithmetic(options: dict[str, int], kind: type[nn.Conv2d]) -> None:
    conv = kind(4, 8, **options)
    layer = QuantizedConv2d(conv, W8A8)
    layer.input.set_range(0.0, 255.0)
    weight, x = integers(tuple(conv.weight.shape), -127, 127), integers((2, 4, 9, 8), 0, 255)
    layer.set_weight(weight.flatten(1), torch.ones(8), None)
    layer.finalize()
    conv.weight.data, conv.bias = weight.float(), None
    expected = conv.double()(x.double())
    assert torch.equal(layer(x.float()).double(), expected)
    assert torch.equal(layer._over_patches(x.float()).double(), expected)
    if kind is Conv2dSame:
        assert expected.shape[2:] == (-(-9 // conv.stride[0]), -(-8 // conv.stride[1]))


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


@pytest.mark.parametrize("samples", [1, 40])
@pytest.mark.parametrize("name", ["w8a8", "w3a3"])
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_direct_convolution_and_product_over_patches_are_equal(name: str, samples: int, groups: int) -> None:
    layer = QuantizedConv2d(nn.Conv2d(16, 32, 3, 2, 1, groups=groups), Precision(name))
    layer.input.set_range(-1.0, 3.0)
    most = 2 ** (layer.precision.weight_bits - 1) - 1
    layer.set_weight(integers((32, 144 // groups), -most, most), torch.rand(32) + 0.1, torch.randn(32))
    layer.finalize()
    x = torch.randn(samples, 16, 11, 12, generator=torch.Generator().manual_seed(1))
    assert layer._kernels is not None
    assert torch.equal(layer(x), layer._over_patches(x))


def test_a_convolution_with_sums_beyond_float32_is_exact() -> None:
    layer = QuantizedConv2d(nn.Conv2d(64, 2, 3), W8A8)
    layer.input.set_range(0.0, 255.0)
    layer.set_weight(torch.full((2, 576), 127) - integers((2, 576), 0, 1), torch.ones(2), None)
    layer.finalize()
    x = integers((3, 64, 5, 5), 254, 255)
    expected = functional.conv2d(x.double(), layer.weight.view(2, 64, 3, 3).double())
    assert layer._kernels is None
    assert torch.equal(layer(x.float()), expected.float())


def test_an_algorithm_that_rounds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = functional.conv2d
    direct_is_exact.cache_clear()

    def rounding(*args: Tensor, **kwargs: int) -> Tensor:
        found = exact(*args, **kwargs)
        return found * (1 + 1e-6) if found.dtype == torch.float32 and len(found) > 1 else found

    monkeypatch.setattr(functional, "conv2d", rounding)
    try:
        assert not direct_is_exact()
    finally:
        direct_is_exact.cache_clear()


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight - self.weight.mean())


def test_a_convolution_that_is_not_handled_is_refused() -> None:
    with pytest.raises(QueeError, match="a Standardized, which computes something else"):
        QuantizedConv2d(Standardized(4, 4, 3), W8A8)
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


def dequantized(quantizer: AffineQuantizer, x: torch.Tensor) -> torch.Tensor:
    return quantizer(x) * quantizer.scale


@given(ends, ends, bits)
def test_error_is_at_most_half_a_step_inside_the_range(a: float, b: float, number: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(high - low > 1e-3)
    quantizer = AffineQuantizer(number).set_range(low, high)
    x = torch.linspace(low, high, 501)
    assert float((dequantized(quantizer, x) - x).abs().max()) <= 0.5 * float(quantizer.scale) * (1 + 1e-4)


@given(ends, ends, bits, seeds)
def test_quantizing_again_changes_nothing(a: float, b: float, number: int, seed: int) -> None:
    quantizer = AffineQuantizer(number).set_range(min(a, b), max(a, b))
    once = quantizer(torch.from_numpy(drawn(seed, 300)))
    assert torch.equal(quantizer(once * quantizer.scale), once)


@given(ends, ends, bits, seeds)
def test_integers_stay_within_the_bits_and_zero_is_exact(a: float, b: float, number: int, seed: int) -> None:
    quantizer = AffineQuantizer(number).set_range(min(a, b), max(a, b))
    integers = quantizer(torch.from_numpy(drawn(seed, 300)) * 1e4)
    assert torch.equal(integers, integers.round())
    stored = integers + quantizer.zero_point
    assert float(stored.min()) >= 0
    assert float(stored.max()) <= 2**number - 1
    assert float(integers.abs().max()) <= quantizer.largest <= 2**number - 1
    assert float(quantizer(torch.zeros(1))) == 0.0


def test_a_worked_example() -> None:
    quantizer = AffineQuantizer(3).set_range(-1.0, 6.0)  # step 1, zero point 1: -1 … 6
    x = torch.tensor([-9.0, -1.0, 0.4, 0.5, 1.5, 2.5, 6.0, 9.0])
    assert quantizer(x).tolist() == [-1, -1, 0, 0, 2, 2, 6, 6]  # half to even
    assert (float(quantizer.scale), int(quantizer.zero_point)) == (1.0, 1)


def test_the_range_is_widened_to_hold_zero() -> None:
    quantizer = AffineQuantizer(8).set_range(3.0, 5.1)
    assert (quantizer.low, quantizer.high) == (0.0, 255.0)
    assert float(quantizer.scale) == pytest.approx(5.1 / 255)


def test_loaded_buffers_give_the_same_integers() -> None:
    first = AffineQuantizer(4).set_range(-0.3, 2.0)
    second = AffineQuantizer(4)
    second.load_state_dict(first.state_dict())
    x = torch.linspace(-1, 3, 200)
    assert torch.equal(second.finalize()(x), first(x))


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


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    rows=st.sampled_from([0, 1, 7, BLOCK, BLOCK + 3]),
    bits=st.sampled_from([3, 4, 6, 7, 8]),
    low=st.floats(-9, 3),
    width=st.floats(0.1, 9),
    seed=st.integers(0, 99),
)
def test_a_cpu_with_kernels_for_integers_has_the_bits_of_one_without(
    inputs, outputs, rows, bits, low, width, seed
) -> None:
    found = []
    x = torch.randn(2, rows, inputs, generator=torch.Generator().manual_seed(seed)) * 5
    for faster in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers_module, "integers_are_faster", lambda _, faster=faster: faster)
            torch.manual_seed(seed)
            layer = QuantizedLinear(nn.Linear(inputs, outputs), Precision(f"w8a{bits}"))
            fitted(layer, low, low + width)
        assert (layer._faster is not None) == faster
        found += [layer(x), layer._multiply(layer.input(x))]
    assert all(torch.equal(one, found[0]) for one in found) and found[0].shape == (2, rows, outputs)


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


NAMES = ["patch_embed.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc2", "head"]
W4A8, W3A3 = Precision("w4a8"), Precision("w3a3")


def test_a_name_goes_before_patterns_and_the_first_pattern_before_others() -> None:
    found = resolved(NAMES, {"blocks.*.fc2": W8A8, "blocks.*": W4A8, "blocks.1.mlp.fc2": W3A3})
    assert found == {"blocks.0.mlp.fc1": W4A8, "blocks.0.mlp.fc2": W8A8, "blocks.1.mlp.fc2": W3A3}


def test_a_pattern_of_no_layer_is_refused_with_what_there_is() -> None:
    with pytest.raises(QueeError, match=r"no layer is called 'blocks\.9\.\*'; there are patch_embed\.proj, blocks\.\*"):
        resolved(NAMES, {"blocks.9.*": W8A8})


def test_they_are_executed_and_counted_as_told() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2)).requires_grad_(False)
    config = QuantizationConfig("w3a3", "minmax", layers={"blocks.*.attn.query_key": "w8a8", "head": "w3a3"})
    cost = trace_cost(backbone, layers=own_layers(backbone, [config]))
    plain = trace_cost(backbone)
    scores = {p.segment: p.macs for p in plain.products if p.name.endswith("query_key")}
    for segment in (1, 2):
        extra = bitflops(scores[segment], (8, 8)) - bitflops(scores[segment], (3, 3))
        assert cost.bitflops(segment, W3A3) - plain.bitflops(segment, W3A3) == extra
        assert cost.bitflops(segment, W8A8) == plain.bitflops(segment, W8A8)
    assert cost.bitflops(0, W3A3) / plain.bitflops(0, W3A3) == 9 / 64
    found = layout(quantize_(backbone, config, [torch.randn(32, 1, 8, 8)]))
    assert {name for name, (precision, *_) in found.items() if precision == "w8a8"} == {
        "blocks.0.attn.query_key", "blocks.1.attn.query_key",
    }  # fmt: skip
    assert found["head"][0] == "w3a3"
