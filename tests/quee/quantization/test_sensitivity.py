"""Sensitivity is measured one layer at a time and leaves the float network unchanged."""

from copy import deepcopy

import torch

from quee.network.architectures import create_backbone
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.layers import quantizable
from quee.quantization.mixed import sensitivity
from quee.settings.quantize import QuantizationConfig


def test_every_layer_has_its_error_and_fewer_bits_a_larger_one() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2))
    images = torch.randn(32, 1, 8, 8)
    with torch.inference_mode():
        labels = backbone(images).argmax(dim=1)
    before = deepcopy(backbone.state_dict())
    mean = {}
    for name in ("w3a3", "w6a6"):
        quantized = quantize_(deepcopy(backbone), QuantizationConfig(Precision(name)), [images])
        rows = sensitivity(backbone, quantized, images, labels)  # type: ignore[arg-type]
        assert sorted(row["layer"] for row in rows) == sorted(quantizable(backbone))
        assert [row["segment"] for row in rows] == [1] * 7 + [2] * 6 + [0]
        assert {row["precision"] for row in rows if row["segment"]} == {name}
        assert all(row["accuracy_change"] <= 0 and row["agreement"] == 1 + row["accuracy_change"] for row in rows)
        mean[name] = sum(row["sqnr_db"] for row in rows[:-1]) / (len(rows) - 1)
    assert mean["w6a6"] > mean["w3a3"] + 10
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
