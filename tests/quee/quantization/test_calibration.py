"""Calibration: what it refuses, what it does not change, and the effect of bias correction."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.calibration import Calibrator, quantize_, quantize_paths
from quee.quantization.layers import QUANTIZED, QuantizedLinear, QuantizedMatMul, layout
from quee.quantization.units import Observer, Unit
from quee.settings.quantize import QuantizationConfig


@pytest.fixture(scope="module")
def original() -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2))


@pytest.fixture
def backbone(original: SegmentedBackbone) -> SegmentedBackbone:
    return deepcopy(original)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def config(name: str = "w8a8", **settings: object) -> QuantizationConfig:
    return QuantizationConfig(Precision(name), **settings)


NAN = torch.randn(4, 1, 8, 8)
NAN[2, 0, 3, 3] = torch.nan
BAD = {
    "no batches": ([], "at least 2 samples, got 0"),
    "one sample": ([torch.randn(1, 1, 8, 8)], "at least 2 samples, got 1"),
    "empty batches": ([torch.randn(0, 1, 8, 8)], "at least 2 samples, got 0"),
    "equal samples": ([torch.full((4, 1, 8, 8), 0.5)], "constant"),
    "equal samples over batches": ([torch.zeros(4, 1, 8, 8), torch.zeros(2, 1, 8, 8)], "constant"),
    "NaN": ([torch.randn(4, 1, 8, 8), NAN], "NaN or infinity"),
    "infinity": ([torch.full((4, 1, 8, 8), torch.inf)], "NaN or infinity"),
    "NaN in one sample": ([torch.randn(4, 1, 8, 8), NAN], "first in sample 6"),
    "unequal shapes": ([torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8)], "differ in shape"),
    "larger images": (
        [torch.randn(4, 1, 9, 9)],
        r"calibration samples have the shape \(1, 9, 9\); the backbone takes \(1, 8, 8\)",
    ),
    "colour images": ([torch.randn(4, 3, 8, 8)], r"the shape \(3, 8, 8\); the backbone takes \(1, 8, 8\)"),
    "images without channels": ([torch.randn(4, 8, 8)], r"the shape \(8, 8\); the backbone takes \(1, 8, 8\)"),
    "bytes": ([torch.zeros(4, 1, 8, 8, dtype=torch.uint8)], "torch.uint8 .* floating-point tensor"),
    "an array": ([np.zeros((4, 1, 8, 8), np.float32)], "ndarray; valid: a floating-point tensor"),
    "a number": ([torch.tensor(1.0)], "floating-point tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calibration_data_are_refused_and_nothing_is_replaced(backbone: SegmentedBackbone, case: str) -> None:
    batches, message = BAD[case]
    before = deepcopy(backbone.state_dict())
    with pytest.raises(QueeError, match=message):
        quantize_(backbone, config(), batches)
    assert not any(isinstance(m, QUANTIZED) for m in backbone.modules())
    assert not any(m._forward_pre_hooks for m in backbone.modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    with pytest.raises(QueeError, match=message):
        quantize_paths(backbone, [config("w3a3"), config()], batches)


def test_weights_that_are_not_finite_are_refused_naming_the_layer(backbone: SegmentedBackbone, images: Tensor) -> None:
    with torch.no_grad():
        backbone.get_submodule("blocks.0.mlp.fc1").bias[0] = torch.inf
    with pytest.raises(QueeError, match=r"^blocks\.0\.mlp\.fc1: the float weights contain NaN or infinity"):
        quantize_(backbone, config(), [images])
    assert not any(isinstance(m, QUANTIZED) for m in backbone.modules())


class Odd(nn.Module):
    """Networks that cannot be quantized as a whole."""

    def __init__(self, part: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.first, self.part, self.times = nn.Linear(8, 8), part, times

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.times):
            x = self.part(x)
        return x


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


ODD = {
    "a layer of another kind": (Odd(nn.Bilinear(8, 8, 8)), "^part: nothing quantizes a Bilinear"),
    "weights of another name": (Odd(Attends()), "^part.attention: nothing quantizes a MultiheadAttention"),
    "a convolution that pads otherwise": (
        Odd(nn.Conv2d(8, 8, 1, padding_mode="circular")),
        "^part: nothing .* 'circular'",
    ),
    "a layer that is not run": (Odd(nn.Linear(8, 8), times=0), "^part runs 0 times"),
    "a layer that is run twice": (Odd(nn.Linear(8, 8), times=2), "^part runs 2 times"),
    "values of another width": (
        Odd(nn.Linear(9, 8)),
        r"^part: calibration values have the shape \(2, 8\); the layer takes 9 features",
    ),
    "no layers": (nn.Sequential(nn.GELU()), "nothing to quantize in a Sequential"),
}


@pytest.mark.parametrize("case", ODD)
def test_networks_that_cannot_be_quantized_whole_are_refused_naming_the_layer(case: str) -> None:
    model, message = ODD[case]
    before = deepcopy(model.state_dict())
    with pytest.raises(QueeError, match=message):
        quantize_(model, config("w4a4"), [torch.randn(4, 8)])
    assert not any(isinstance(m, QUANTIZED) for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_that_is_quantized_already_is_refused(backbone: SegmentedBackbone, images: Tensor) -> None:
    quantize_(backbone, config(), [images])
    with pytest.raises(QueeError, match=r"^patch_embed.proj is quantized to w8a8 already"):
        quantize_(backbone, config("w4a4"), [images])


def test_finished_units_are_found_again_and_the_result_is_the_same(
    original: SegmentedBackbone, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [config("w3a3", head="w4a4"), config("w8a8")]
    whole = quantize_paths(original, configs, [images])
    calibrate = Calibrator._calibrate

    def cut(self: Calibrator, unit: Unit, *states: Any) -> None:
        if unit.name == "blocks.1":
            raise KeyboardInterrupt
        calibrate(self, unit, *states)

    monkeypatch.setattr(Calibrator, "_calibrate", cut)
    with pytest.raises(KeyboardInterrupt):
        quantize_paths(original, configs, [images], partial=tmp_path)
    done: list[str] = []

    def counted(self: Calibrator, unit: Unit, *states: Any) -> None:
        done.append(f"{self.config.precision}.{unit.name}")
        calibrate(self, unit, *states)

    monkeypatch.setattr(Calibrator, "_calibrate", counted)
    resumed = quantize_paths(original, configs, [images], partial=tmp_path)
    assert done == [f"{p}.{unit}" for unit in ("blocks.1", "head") for p in ("w3a3", "w8a8")]
    for precision, model in whole.items():
        assert layout(model) == layout(resumed[precision])
        again = resumed[precision].state_dict()
        assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
        assert torch.equal(model(images), resumed[precision](images))


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_only_integer_precisions_are_quantized_to(backbone: SegmentedBackbone, images: Tensor, name: str) -> None:
    with pytest.raises(QueeError, match=f"not {name}"):
        quantize_(backbone, config(name), [images])


def test_every_matrix_product_is_replaced_at_its_precision(backbone: SegmentedBackbone, images: Tensor) -> None:
    assert quantize_(backbone, config("w3a4"), [images]) is backbone
    replaced = {name: str(m.precision) for name, m in backbone.named_modules() if isinstance(m, QUANTIZED)}
    block = ("attn.qkv", "attn.query_key", "attn.attention_value", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{i}.{layer}": "w3a4" for i in (0, 1) for layer in block}
    assert replaced == {**expected, "patch_embed.proj": "w3a4", "head": "w8a8"}
    assert not any(isinstance(m, nn.Linear | nn.Conv2d) for m in backbone.modules())


def test_calibration_is_deterministic(original: SegmentedBackbone, images: Tensor) -> None:
    first, second = (quantize_(deepcopy(original), config("w4a4"), [images]).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("activations", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("weights", ["minmax", "mse"])
def test_more_bits_come_closer_to_the_float_network(
    original: SegmentedBackbone, images: Tensor, weights: str, activations: str
) -> None:
    with torch.inference_mode():
        expected = original(images)
        errors = []
        for name in ("w3a3", "w5a5", "w8a8"):
            settings = QuantizationConfig(name, "mse", weights=weights, activations=activations)
            errors.append(float((quantize_(deepcopy(original), settings, [images])(images) - expected).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * float(expected.norm())


def test_mse_comes_closer_than_minmax_at_few_bits(original: SegmentedBackbone, images: Tensor) -> None:
    with torch.inference_mode():
        expected = original(images)
        errors = {
            method: float(
                (
                    quantize_(deepcopy(original), config("w3a3", weights=method, activations=method), [images])(images)
                    - expected
                ).norm()
            )
            for method in ("minmax", "mse")
        }
    assert errors["mse"] < errors["minmax"]


def test_bias_correction_takes_the_mean_error_away() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16))
    x = torch.rand(64, 32)
    with torch.inference_mode():
        expected = model(x)
        without = quantize_(deepcopy(model), config("w2a3", bias_correction=False), [x])(x) - expected
        corrected = quantize_(deepcopy(model), config("w2a3"), [x])(x) - expected
    assert float(without.mean(dim=0).abs().max()) > 1e-2
    assert float(corrected.mean(dim=0).abs().max()) < 1e-5


def test_a_layer_without_bias_and_products_of_two_inputs_are_calibrated(
    original: SegmentedBackbone, images: Tensor
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    x = torch.randn(64, 8)
    quantized = quantize_(deepcopy(model), config(bias_correction=False), [x])
    assert isinstance(quantized[0], QuantizedLinear)
    assert not quantized[0].bias.any()
    assert torch.allclose(quantized(x), model(x), atol=0.05)
    product = quantize_(deepcopy(original), config(), [images]).get_submodule("blocks.0.attn.attention_value")
    assert isinstance(product, QuantizedMatMul)
    assert (product.a.low, product.a.high) == (0.0, 255.0)  # attention is not negative
    assert product.b.low < 0 < product.b.high


def test_what_is_kept_of_the_inputs_is_bounded_and_spread() -> None:
    observer = Observer(batches=2, rows=4096)
    for start in (0, 100_000):
        observer.see(0, torch.arange(start, start + 100_000.0).reshape(-1, 50, 1))
    rows = observer.values()
    assert rows.shape == (4096, 1)
    assert rows[0] == 0
    assert rows[-1] == 199_999
    assert float((rows[1:] - rows[:-1]).max()) < 60


def test_below_8_activation_bits_alone_norms_are_folded_and_grids_are_not_uniform(
    original: SegmentedBackbone, images: Tensor
) -> None:
    original = deepcopy(original)
    with torch.no_grad():
        original.get_submodule("blocks.0.attn.qkv").weight.mul_(15)  # attention that is not even
    for name, folded in (("w4a4", True), ("w4a8", False), ("w8a8", False)):
        quantized = quantize_(deepcopy(original), config(name), [images])
        norm = quantized.get_submodule("blocks.0.norm1")
        changed = not torch.equal(norm.weight, original.get_submodule("blocks.0.norm1").weight)
        assert changed == folded
        kinds = {kind for _, *kinds in layout(quantized).values() for kind in kinds}
        assert ("codebook" in kinds) == folded
        assert torch.equal(quantized.get_submodule("norm").weight, original.get_submodule("norm").weight)


def test_stem_and_head_have_their_own_precision_where_it_is_asked_for(
    original: SegmentedBackbone, images: Tensor
) -> None:
    parts = layout(quantize_(deepcopy(original), config("w3a3", stem="w8a8", head="w4a4"), [images]))
    assert parts["patch_embed.proj"][0] == "w8a8"
    assert parts["head"][0] == "w4a4"
    assert {parts[name][0] for name in parts if name.startswith("blocks.")} == {"w3a3"}


def test_segments_calibrated_together_are_entered_by_mixed_prefixes(
    original: SegmentedBackbone, images: Tensor
) -> None:
    configs = [config("w3a3"), config("w8a8")]
    together = quantize_paths(original, configs, [images])
    assert not any(isinstance(m, QUANTIZED) for m in original.modules())
    for one in configs:
        alone = quantize_(deepcopy(original), one, [images])
        own = together[one.precision]
        same = {
            name: torch.equal(value, own.state_dict()[name])
            for name, value in alone.state_dict().items()
            if name.endswith(".weight") and value.dtype == torch.int8
        }
        assert all(equal for name, equal in same.items() if original.segment_of(name) == 1)
        assert not all(equal for name, equal in same.items() if original.segment_of(name) == 2)
    again = quantize_paths(original, configs, [images])
    assert all(
        torch.equal(value, again[p].state_dict()[name])
        for p, model in together.items()
        for name, value in model.state_dict().items()
    )
    other = quantize_paths(original, configs, [images], seed=1)[Precision("w8a8")].state_dict()
    assert any(not torch.equal(v, other[n]) for n, v in together[Precision("w8a8")].state_dict().items())


def test_eight_bits_keep_their_own_accuracy_beside_few_bits(original: SegmentedBackbone, images: Tensor) -> None:
    """Layers of w8a8 fitted to the float output behind w2a4 alone correct errors that a w8a8 prefix does not have."""
    wanted = original(images)
    alone = quantize_(deepcopy(original), config("w8a8"), [images])
    together = quantize_paths(original, [config("w2a4"), config("w3a3"), config("w8a8")], [images])[Precision("w8a8")]
    error, own = ((model(images) - wanted).square().mean().item() for model in (together, alone))
    assert error <= 10 * own, (error, own)  # 1.4 to 6 times, by CPU


def test_calibration_reads_no_more_samples_than_it_is_told(original: SegmentedBackbone, images: Tensor) -> None:
    def batches() -> Iterator[Tensor]:
        yield images[:20]
        yield images[20:40]
        raise AssertionError("read beyond the buffer")

    quantized = quantize_(deepcopy(original), config(samples=32), batches())
    expected = quantize_(deepcopy(original), config(), [images[:20], images[20:32]])
    assert torch.equal(quantized(images), expected(images))


def test_folding_alone_leaves_the_network_at_many_bits_as_it_was(original: SegmentedBackbone, images: Tensor) -> None:
    plain = quantize_(deepcopy(original), QuantizationConfig("w8a7", "mse"), [images])
    folded = quantize_(deepcopy(original), QuantizationConfig("w8a7", "mse", fold_norms=True), [images])
    with torch.inference_mode():
        expected = original(images)
        assert (folded(images) - expected).norm() < 1.2 * (plain(images) - expected).norm()


def test_learned_rounding_needs_a_sample_that_checks_it(images: Tensor) -> None:
    network = create_backbone("vit_digits", embed_dim=16, depth=2, num_heads=2)
    before = deepcopy(network.state_dict())
    for config_, data in (
        (config("w4a4", preset="best"), images[:7]),
        (config(preset="best", stem="w4a8"), images[:4]),
    ):
        with pytest.raises(QueeError, match=r"at least 8 samples, got \d \(rounding 'learned'.*'compensated' needs 2"):
            quantize_(network, config_, [data])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    quantize_(deepcopy(network), config(preset="best"), [images[:4]])  # nothing is learned at 8 bits
    quantize_(network, config("w4a4", preset="best", iterations=2), [images[:8]])
    assert network(images).isfinite().all()
