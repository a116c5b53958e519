"""Layers with a precision of their own: names go before patterns, and layers are executed and counted accordingly."""

import pytest
import torch

from quee.cost import bitflops, trace_cost
from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import layout, own_layers, resolved
from quee.settings.quantize import QuantizationConfig

NAMES = ["patch_embed.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc2", "head"]
W8A8, W4A8, W3A3 = Precision("w8a8"), Precision("w4a8"), Precision("w3a3")


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
