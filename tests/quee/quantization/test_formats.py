"""Number formats of the performer's products: exact arithmetic, files, cost, and engines that agree."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from quee.cost import BitFlops, explain, trace_cost
from quee.errors import QueeError
from quee.exits.fitting import fit_exits
from quee.export.graphs import OPSET, export_graphs
from quee.features import GateView
from quee.network.architectures import create_backbone
from quee.network.attention import MatMul
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import load_quantized, save_quantized
from quee.precision import Precision
from quee.quantization.calibration import quantize_, quantize_paths
from quee.quantization.format_choice import chosen, with_formats
from quee.quantization.formats import FORMATS, KINDS, RoundedMatMul, float_products, round_products
from quee.quantization.layers import empty_quantized, layout, own_layers
from quee.quantization.mixed import with_mixed_bits
from quee.runtime.engines import open_engine
from quee.settings.exits import Exits
from quee.settings.quantize import QuantizationConfig

NAMES = ("fp32", *FORMATS)
KINDS_OF = {"fp32": {"fp32"}, "bf16": {"bf16"}, "int8": {"int8", "int8_balanced"}}
BITS = {"fp32": 32, "bf16": 16, "int8": 8}
KWARGS: dict[str, Any] = {"img_size": 32, "depth": 2, "num_classes": 10}
W4A4, W8A8, FP32 = Precision("w4a4"), Precision("w8a8"), Precision("fp32")


def network() -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("t2t_vit_7", (1, 2), **KWARGS).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def backbone() -> SegmentedBackbone:
    return network()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(70, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def factors(seed: int, rows: int, width: int, columns: int) -> tuple[Tensor, Tensor]:
    """Operands whose rows and columns span many powers of two, as exponentials do."""
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(3, rows, width, generator=random) * torch.exp(4 * torch.randn(3, rows, 1, generator=random))
    b = torch.rand(3, width, columns, generator=random) * torch.exp(4 * torch.randn(3, 1, columns, generator=random))
    return a, b


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=30))
def test_operands_in_bf16_are_those_of_a_cast(values: list[float]) -> None:
    x = torch.tensor(values)[:, None]
    identity = torch.ones(1, 1)
    cast = x.bfloat16().float()
    normal = (cast == 0) | (cast.abs() > 2.0**-125)  # below, bf16 has fewer digits
    assert torch.equal(FORMATS["bf16"]()(x, identity)[normal], cast[normal])


def test_ties_in_bf16_go_to_the_even_neighbour() -> None:
    x = torch.tensor([[1 + 2**-8], [1 + 3 * 2**-8], [-1 - 2**-8], [257.0], [259.0]])
    found = FORMATS["bf16"]()(x, torch.ones(1, 1))
    assert found.flatten().tolist() == [1.0, 1 + 2**-6, -1.0, 256.0, 260.0]


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(1, 9), st.sampled_from([1, 2, 64, 258, 259, 700, 3136]), st.integers(1, 9))
def test_products_in_int8_are_those_of_integers(seed: int, rows: int, width: int, columns: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def levels(axis: int, *shape: int) -> tuple[Tensor, Tensor]:
        """Integers that fill 256 levels around zero along an axis where it is long enough, and the exponents of steps."""
        zero = torch.randint(0, 256, (), generator=random)
        integers = torch.randint(0, 256, shape, generator=random).transpose(axis, 0)
        integers[0], integers[-1] = 255, 0
        one = [1 if own % len(shape) == axis % len(shape) else size for own, size in enumerate(shape)]
        return (integers - zero).transpose(axis, 0), torch.randint(-40, 40, one, generator=random)

    (m, p), (n, q) = levels(-1, rows, width), levels(-2, width, columns)
    found = FORMATS["int8"]()(m * 2.0**p, n * 2.0**q).double()
    wanted = (m @ n).double() * 2.0**p * 2.0**q
    exact = width > 1 or (not m.any() or not n.any())  # a single value is a step of its own, of 255 levels
    torch.testing.assert_close(found, wanted, rtol=1e-6 if exact else 1e-2, atol=0)


def test_long_sums_in_int8_are_added_in_exact_parts() -> None:
    a, b = torch.full((1, 1, 3136), 255.0), torch.full((1, 3136, 1), 255.0)
    a[..., ::7], b[:, ::5] = 254.0, 251.0
    exact = int(a.long().flatten() @ b.long().flatten())
    assert exact > 2**24
    assert float(FORMATS["int8"]()(a, b)) == pytest.approx(exact, rel=2e-7)


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.sampled_from([1, 32, 300]), st.sampled_from([1, 5]), st.floats(0, 12))
def test_a_balanced_sum_errs_by_the_width_of_its_largest_terms(
    seed: int, width: int, columns: int, spread: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    unequal = torch.exp(spread * torch.randn(2, 1, width, generator=random))
    a = torch.rand(2, 6, width, generator=random) / unequal
    b = torch.rand(2, width, columns, generator=random) * unequal.transpose(1, 2)
    exact = a.double() @ b.double()
    terms = (a[..., None].double() * b[:, None].double()).abs()  # (2, 6, width, columns)
    largest = (a.abs() * b.abs().amax(-1)[:, None]).amax(-1)[..., None]
    bound = width * largest * (2 / 255) * (1 + 1 / 255)
    found = KINDS["int8_balanced"]()(a, b)
    assert ((found - exact).abs() <= bound + 1e-6 * terms.sum(2)).all()


def test_a_value_that_meets_a_large_row_is_kept_by_balance_alone() -> None:
    a, b = torch.tensor([[1.0, 1e-4]]), torch.tensor([[1e-5], [1e4]])
    assert float(KINDS["int8_balanced"]()(a, b)) == pytest.approx(1.0, rel=1 / 255)
    assert float(FORMATS["int8"]()(a, b)) == 0.0


def test_what_is_too_small_for_a_step_counts_as_zero() -> None:
    a, b = torch.full((1, 3, 4), 2e-41), torch.full((1, 4, 2), 1e-42)
    assert torch.equal(KINDS["int8_balanced"]()(a, b), torch.zeros(1, 3, 2))


@pytest.mark.parametrize(("name", "most"), [("bf16", 0.004), ("int8", 0.02)])
def test_rounding_errs_by_the_width_of_its_levels(name: str, most: float) -> None:
    a, b = factors(5, 40, 64, 32)
    exact = a.double() @ b.double()
    scale = a.double().norm(dim=-1, keepdim=True) * b.double().norm(dim=-2, keepdim=True)
    error = ((FORMATS[name]()(a, b) - exact) / scale).abs()
    assert 0 < error.max() < most


@pytest.mark.parametrize("name", KINDS)
def test_empty_rows_and_zeros_are_kept(name: str) -> None:
    found = KINDS[name]()(torch.zeros(2, 3, 4), torch.randn(2, 4, 5))
    assert torch.equal(found, torch.zeros(2, 3, 5))


class _Scaled(nn.Module):
    """A product behind a factor, with which engines join factors that come after it."""

    def __init__(self, product: RoundedMatMul) -> None:
        super().__init__()
        self.product = product

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.product(a * 0.17677669, b)


@pytest.mark.parametrize("width", [64, 600])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", KINDS)
def test_engines_round_as_torch_does(name: str, engine: str, width: int, tmp_path: Path) -> None:
    module = pytest.importorskip(engine)
    a, b = factors(3, 20, width, 32)
    if name == "bf16":  # what is added in another order, in one place: the rounded operands are compared
        b = torch.eye(width).expand(3, -1, -1) * 3
    file, product = str(tmp_path / "product.onnx"), _Scaled(KINDS[name]())
    options: Any = {"opset_version": OPSET, "dynamo": False, "input_names": ["a", "b"]}
    torch.onnx.export(product, (a, b), file, **options)
    if engine == "onnxruntime":
        session = module.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = session.run(None, {"a": a.numpy(), "b": b.numpy()})[0]
    else:
        found = module.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([a.numpy(), b.numpy()])[0]
    assert np.array_equal(found, product(a, b).numpy())


@pytest.fixture(scope="module", params=NAMES)
def view(request: pytest.FixtureRequest, backbone: SegmentedBackbone, images: Tensor) -> GateView:
    """The network in floating point, w4a4 and w8a8, with its products in one format."""
    configs = [QuantizationConfig(p, "minmax", rows=512, float_products=request.param) for p in (W4A4, W8A8)]
    models = quantize_paths(backbone, configs, [images], 0)
    for model in models.values():
        found = [model.get_submodule(product) for product in float_products(model)]
        assert len(found) == 10
        assert {getattr(product, "format", "fp32") for product in found} == KINDS_OF[request.param]
    multi = MultiPrecisionBackbone({FP32: backbone, **models})
    settings = Exits(embedding=4, pooling="cls", head="linear")
    heads, _ = fit_exits(multi, [W8A8], lambda _: [(images, torch.arange(70) % 10)], settings, 1, 70)
    return GateView(multi, heads, embedding=True)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_is_executed_is_what_was_simulated(view: GateView, engine: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(engine)
    export_graphs(view, [W8A8], tmp_path)
    opened, reference = open_engine(engine, view, tmp_path, threads=1), open_engine("torch", view)
    given_ = np.random.default_rng(2).standard_normal((150, 3, 32, 32), dtype=np.float32)
    wanted, found = reference.run(1, W8A8, given_), opened.run(1, W8A8, given_)
    # A value at the edge of two integers may fall to either side, which changes later values; few values do.
    assert np.median(np.abs(found.log_probs - wanted.log_probs)) < 1e-5
    assert (found.log_probs.argmax(1) == wanted.log_probs.argmax(1)).mean() >= 0.97
    alone = opened.run(1, W8A8, given_[7:8])
    assert np.array_equal(alone.log_probs[0], found.log_probs[7])


def test_results_do_not_depend_on_the_batch(view: GateView, images: Tensor) -> None:
    with torch.inference_mode():
        whole = view.backbone.run(1, W4A4, images)
        parts = torch.cat([view.backbone.run(1, W4A4, images[i:j]) for i, j in ((0, 1), (1, 40), (40, 70))])
        alone = MultiPrecisionBackbone({W4A4: view.backbone.model(W4A4)})  # without the float network
        assert torch.equal(torch.cat([alone.run(1, W4A4, images[:3]), alone.run(1, W4A4, images[3:])]), whole)
    assert torch.equal(parts, whole)


def test_files_give_the_same_network_back(
    view: GateView, backbone: SegmentedBackbone, images: Tensor, tmp_path: Path
) -> None:
    model = view.backbone.model(W4A4)
    save_quantized(tmp_path, W4A4, model)
    loaded = load_quantized(tmp_path, W4A4, backbone)
    assert layout(loaded) == layout(model)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("entry", [["bf16", "fp16"], ["bf16"], ["w8a8", "int8", "int8"]])
def test_files_with_an_unknown_format_are_refused(
    backbone: SegmentedBackbone, images: Tensor, entry: list[str]
) -> None:
    model = quantize_(network(), QuantizationConfig(W8A8, "minmax", float_products="bf16"), [images])
    parts = layout(model) | {float_products(model)[0]: entry}
    with pytest.raises(
        QueeError, match="tokens_to_token.attention1.key_features: unknown number format .*int8, bf16, int8_balanced"
    ):
        empty_quantized(network(), parts)
    with pytest.raises(QueeError, match=r"differ in layer blocks.9"):
        empty_quantized(network(), layout(model) | {"blocks.9": ["bf16", "bf16"]})


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_the_flop_counters_at_the_bits_of_the_format(backbone: SegmentedBackbone, name: str) -> None:
    configs = [QuantizationConfig(p, float_products=name) for p in (W4A4, W8A8)]
    cost = trace_cost(backbone, layers=own_layers(backbone, configs))
    products = [product for product in cost.products if product.kind == "float"]
    counted = 0
    for performer in (backbone.get_submodule(f"tokens_to_token.attention{stage}") for stage in (1, 2)):
        seen: list[Tensor] = []
        handle = performer.kqv.register_forward_hook(lambda _, __, y, seen=seen: seen.append(y))  # type: ignore[operator, union-attr]
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, 32, 32))
            handle.remove()
            before = counter.get_total_flops()
            performer._attend(*seen[0].chunk(3, dim=-1))  # type: ignore[operator]
            counted += (counter.get_total_flops() - before) // 2
    assert sum(product.macs for product in products) == counted
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 32, 32))
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.unit == cost.macs * 64  # the static w8a8 network has every product at 8 bits, whatever the setting
    own = sum(product.macs for product in products)
    head = next(product.macs for product in cost.products if product.part == "head")
    path = (W4A4, W4A4)
    assert cost.static(path) == (cost.macs - own - head) * 16 + head * 64 + own * BITS[name] ** 2
    assert cost.static((FP32, FP32)) == cost.macs * 1024
    assert {row[4] for row in explain(cost, path) if row[2] == "float"} == {f"{BITS[name]}×{BITS[name]}"}
    assert BitFlops.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_auto_is_replaced_by_what_was_measured(backbone: SegmentedBackbone, images: Tensor) -> None:
    configs = [QuantizationConfig("w8a8", "minmax"), QuantizationConfig("w4a4", "minmax", float_products="fp32")]
    found = with_formats(backbone, configs, images)
    names = ["fp32", *FORMATS]
    networks = {name: round_products(deepcopy(backbone), name) for name in names}
    with torch.inference_mode():
        measured = {name: model(images).argmax(1).numpy() for name, model in networks.items()}
    assert [config.float_products for config in found] == [chosen(measured)[0], "fp32"]
    model = quantize_(network(), configs[0], [images])
    kinds = {kinds[-1] for name, kinds in layout(model).items() if name in float_products(model)}
    assert kinds == KINDS_OF[chosen(measured)[0]]


def test_bits_by_layer_leave_the_products_in_their_format(backbone: SegmentedBackbone, images: Tensor) -> None:
    (found,) = with_mixed_bits(backbone, [QuantizationConfig(W4A4, "minmax", float_products="bf16")], [images])
    assert found.float_products == "bf16" and found.layers
    assert not set(found.layers) & set(float_products(backbone))


def test_networks_without_such_products_stay_as_they_were(images: Tensor) -> None:
    plain = create_backbone("vit_digits", depth=1, embed_dim=16)
    config = QuantizationConfig(W8A8, "minmax")
    assert with_formats(plain, [config], images[:, :1, :8, :8]) == [config]
    assert own_layers(plain, [config]) == {}
    assert "float_products" not in config.to_json()
    assert QuantizationConfig(W8A8, float_products="int8").to_json()["float_products"] == "int8"


def test_what_is_not_measured_yet_is_not_counted(backbone: SegmentedBackbone) -> None:
    with pytest.raises(QueeError, match="float_products: auto is decided by measurement"):
        own_layers(backbone, [QuantizationConfig(W8A8)])


def test_a_network_in_a_format_is_not_quantized_again(images: Tensor) -> None:
    model = round_products(network(), "bf16")
    with pytest.raises(QueeError, match="key_features is quantized to bf16 already"):
        quantize_(model, QuantizationConfig(W8A8, float_products="int8"), [images])


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_is_learned_through_the_products(name: str, images: Tensor) -> None:
    config = QuantizationConfig(W4A4, "best", iterations=3, float_products=name)
    model = quantize_(network(), config, [images[:32]])
    products = [model.get_submodule(product) for product in float_products(model)]
    assert {product.format for product in products if isinstance(product, RoundedMatMul)} == KINDS_OF[name]


def test_products_of_attention_are_left_to_calibration() -> None:
    model = nn.ModuleDict({"a": MatMul("attention"), "b": MatMul("float"), "c": MatMul("float", balanced=True)})
    assert float_products(model) == ["b", "c"]
    found = round_products(model, "int8")
    assert type(found["b"]) is KINDS["int8"] and type(found["c"]) is KINDS["int8_balanced"]
    assert type(round_products(model, "fp32")["a"]) is MatMul
