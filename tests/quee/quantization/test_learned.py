"""Learned rounding lowers a block's error or changes nothing; it is seeded, and finished blocks are reused."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.calibration import Calibrator, quantize_
from quee.quantization.layers import QuantizedLinear
from quee.quantization.learned import reconstruct, unit_state
from quee.quantization.units import run_unit, sources
from quee.settings.quantize import QuantizationConfig
from quee.work.store import Store

CONFIG = QuantizationConfig("w3a3", "best", iterations=50)
IMAGES = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def backbone() -> SegmentedBackbone:
    torch.manual_seed(0)
    model = create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2))
    with torch.no_grad():
        for block in model.blocks:
            block.get_submodule("attn.qkv").weight.mul_(20)
    return model.requires_grad_(False)


def calibrated(backbone: SegmentedBackbone, config: QuantizationConfig) -> tuple[Calibrator, Tensor, Tensor]:
    """A calibrator whose first block is quantized in closed form, the state before the block and the float state after it."""
    calibrator = Calibrator(backbone, config)
    stem, block = calibrator.units[:2]
    state = run_unit(backbone, stem, IMAGES)
    calibrator._unit(block, sources(backbone, block, state[:2]), state, state)
    return calibrator, state, run_unit(backbone, block, state)


def test_a_block_comes_closer_to_the_float_one_and_stays_on_its_grid(backbone: SegmentedBackbone) -> None:
    calibrator, state, target = calibrated(backbone, CONFIG)
    network, block = calibrator.network, calibrator.units[1]
    before, after = reconstruct(network, block, calibrator.latents, state, target, CONFIG)
    assert after < before
    for name in ("attn.qkv", "mlp.fc2"):
        layer = network.get_submodule(f"blocks.0.{name}")
        assert isinstance(layer, QuantizedLinear)
        assert int(layer.weight.abs().max()) <= 3
        q = layer.input(torch.randn(9, layer.weight.shape[1]))
        expected = (q.long() @ layer.weight.long().t()).float() * (layer.input.scale * layer.weight_scale) + layer.bias
        assert torch.equal(layer(q * layer.input.scale), expected)


def test_what_held_out_samples_do_not_confirm_is_not_kept(
    backbone: SegmentedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrator, state, target = calibrated(backbone, CONFIG)
    network, block = calibrator.network, calibrator.units[1]
    kept, output = unit_state(network, block), run_unit(network, block, state)
    rates = {"latent": 5.0, "scale": 1.0, "bias": 5.0, "norm": 1.0}  # far too fast
    monkeypatch.setattr("quee.quantization.learned.RATES", rates)
    before, after = reconstruct(network, block, calibrator.latents, state, target, CONFIG)
    assert after >= before
    assert all(torch.equal(value, kept[key]) for key, value in unit_state(network, block).items())
    assert torch.equal(run_unit(network, block, state), output)


def test_finished_blocks_are_found_again_and_the_result_is_the_same(
    backbone: SegmentedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantize_(deepcopy(backbone), CONFIG, [IMAGES], tmp_path).state_dict()
    assert Store(str(tmp_path)).names() == {f"w3a3.{unit}" for unit in ("blocks.0", "blocks.1", "head", "stem")}
    monkeypatch.setattr("quee.quantization.calibration.reconstruct", None)  # would fail if a block were trained again
    second = quantize_(deepcopy(backbone), CONFIG, [IMAGES], tmp_path).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_8_bit_weights_are_not_learned(backbone: SegmentedBackbone) -> None:
    learned = quantize_(deepcopy(backbone), QuantizationConfig("w8a8", "best"), [IMAGES]).state_dict()
    closed = quantize_(deepcopy(backbone), QuantizationConfig(Precision("w8a8")), [IMAGES]).state_dict()
    assert all(torch.equal(value, closed[key]) for key, value in learned.items())
