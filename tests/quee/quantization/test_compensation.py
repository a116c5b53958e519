"""Compensation: a layer beside a block takes its error away, is counted, stored, and absent unless asked for."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quee.backbones import create_backbone
from quee.backbones.base import SegmentedBackbone
from quee.cost import BitFlops, explain, trace_cost
from quee.errors import QueeError
from quee.precision import Precision
from quee.quantization import QuantizationConfig, quantize_, quantize_paths
from quee.quantization.compensation import compensation
from quee.store import load_quantized, save_quantized

IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
W3A3, W8A8 = Precision("w3a3"), Precision("w8a8")
CONFIG = QuantizationConfig.of(W3A3, "minmax", compensation=W8A8)


def build() -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2)).requires_grad_(False)


def error(model: SegmentedBackbone, images: Tensor) -> float:
    with torch.inference_mode():
        return float((model.run_segment(1, images) - build().run_segment(1, images)).square().mean())


def test_it_finds_a_linear_error_and_leaves_noise_alone() -> None:
    random = np.random.default_rng(0)
    rows, kernel = random.normal(size=(400, 8)), random.normal(size=(6, 8))
    missing = rows @ kernel.T + 3.0
    layer = compensation(rows, missing, W8A8, CONFIG, "blocks.0")
    with torch.inference_mode():
        given = layer(torch.from_numpy(rows).float()).double().numpy()
    assert np.square(given - missing).mean() < 1e-3 * missing.var()
    layer = compensation(rows, random.normal(size=(400, 6)) + 3.0, W8A8, CONFIG, "blocks.0")
    assert not layer.weight.any()
    assert torch.allclose(layer.bias, torch.full((6,), 3.0), atol=0.2)


def test_a_block_comes_closer_to_the_float_one() -> None:
    images = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    config = QuantizationConfig.of(W3A3, "minmax", propagate=True, target="float")
    plain = quantize_(build(), config, [images])
    helped = quantize_(build(), replace(config, compensation=W8A8), [images])
    held_out = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    assert error(helped, held_out) < 0.9 * error(plain, held_out)  # type: ignore[arg-type]


def test_it_is_stored_and_read_back_and_copied(tmp_path: Path) -> None:
    model = quantize_paths(build(), [CONFIG, QuantizationConfig.of(W8A8, compensation=W8A8)], [IMAGES])
    low = model[W3A3]
    assert "blocks.1.compensation.weight" in low.state_dict()
    assert not [name for name in model[W8A8].state_dict() if "compensation" in name]
    save_quantized(tmp_path, W3A3, low)
    read = load_quantized(tmp_path, W3A3, build())
    with torch.inference_mode():
        assert torch.equal(read(IMAGES), low(IMAGES))
        assert torch.equal(deepcopy(read)(IMAGES), low(IMAGES))
    shallow = create_backbone("vit_digits", embed_dim=32, depth=1, gates=(1,))
    with pytest.raises(QueeError, match=r"differ in layer blocks\.1\."):
        load_quantized(tmp_path, W3A3, shallow)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("t2t_vit_7", {"img_size": 64, "depth": 2, "num_classes": 3}),
        ("vit_small_patch14_dinov2.lvd142m", {"img_size": 28, "depth": 4, "num_classes": 3, "layers": 4}),
    ],
)
def test_every_kind_of_block_takes_it(name: str, kwargs: dict[str, int]) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, **kwargs).requires_grad_(False)
    images = torch.randn(4, 3, kwargs["img_size"], kwargs["img_size"])
    model = quantize_(deepcopy(backbone), CONFIG, [images])
    with torch.inference_mode():
        assert model(images).shape == backbone(images).shape
    assert [p.name for p in trace_cost(backbone, compensation="w8a8").products if p.part == "compensation"] == [
        f"blocks.{i}.compensation" for i in range(len(backbone.blocks))
    ]


def test_its_cost_is_counted_where_it_is_executed() -> None:
    backbone = build()
    plain, own = trace_cost(backbone), trace_cost(backbone, compensation="w4a8")
    tokens = backbone.embed(IMAGES[:1]).shape[1]
    for segment in (1, 2):
        added = own.bitflops(segment, W3A3) - plain.bitflops(segment, W3A3)
        assert added == tokens * 32 * 32 * 4 * 8
        for name in ("w8a8", "fp32"):
            assert own.bitflops(segment, Precision(name)) == plain.bitflops(segment, Precision(name))
    assert (own.unit, own.macs) == (plain.unit, plain.macs)
    table = list(explain(own, (W3A3, W3A3)))
    assert sum(row[-1] for row in table) == own.static((W3A3, W3A3))
    assert len(list(explain(own, (W8A8, W8A8)))) == len(list(explain(plain, (W8A8, W8A8))))
    assert BitFlops.from_json(own.to_json()) == own
    assert "compensation" not in plain.to_json()
