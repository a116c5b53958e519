"""Files of heads: those with one linear layer per gate are still read, and what is not a file of heads is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quee.errors import IntegrityError
from quee.exits.heads import ANY, HEAD_PRECISION, Classifier, ExitHead, ExitHeads, Standardised, sizes
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.layers import QuantizedLinear
from quee.quantization.weights import quantize_linear
from quee.work.io import write_tensors

W8A8 = Precision("w8a8")


def network(name: str) -> SegmentedBackbone:
    if name == "vit_digits":
        return create_backbone(name, (1, 2), embed_dim=32, depth=2, num_classes=3)
    return create_backbone(name, (1, 3), depth=3, num_classes=3)


@torch.no_grad()
def layers(inputs: int, hidden: int = 0) -> Classifier:
    torch.manual_seed(0)
    first = nn.Linear(inputs, hidden or 3).requires_grad_(False)
    floating = [first] if not hidden else [Standardised(inputs), first, nn.ReLU(), nn.Linear(hidden, 3)]
    x, quantized = torch.randn(50, inputs), []
    for layer in floating:
        quantized.append(quantize_linear(layer, x, HEAD_PRECISION, "head") if isinstance(layer, nn.Linear) else layer)
        x = quantized[-1](x)
    return Classifier(nn.Sequential(*floating), nn.Sequential(*quantized))


@pytest.mark.parametrize(
    ("name", "named", "pooling", "width"),
    [
        ("vit_digits", "cls", "cls", 32),
        ("vit_digits", "cls_mean", "cls_mean", 64),
        ("resnet20_cifar", "cls", "mean", 16),
        ("resnet20_cifar", "cls_mean", "mean_max", 32),
    ],
)
def test_files_of_linear_heads_are_still_read(name: str, named: str, pooling: str, width: int, tmp_path: Path) -> None:
    own, model = layers(width), network(name)
    (linear,), (quantized,) = own.floating, own.quantized
    arrays = {f"gate.1.linear.{key}": value.numpy() for key, value in linear.state_dict().items()}
    arrays |= {f"gate.1.quantized.{key}": value.numpy() for key, value in quantized.state_dict().items()}
    arrays |= {f"gate.{g}.projection.{k}": v.numpy() for g in (1, 2) for k, v in quantized.state_dict().items()}
    write_tensors(tmp_path / "heads.safetensors", arrays, {"gates": "2", "pooling": named})
    heads = ExitHeads.load(tmp_path / "heads.safetensors", model)
    assert [head.pooling for head in heads.heads] == [pooling, ""]
    assert not heads.heads[1].classifiers and heads.embedding == 3
    found, x = heads.heads[0].classifier(W8A8), torch.randn(7, width)
    assert torch.equal(found.floating(x), linear(x)) and torch.equal(found.quantized(x), quantized(x))
    assert model.pooled_width(1, pooling) == width


def test_a_precision_without_a_head_of_its_own_gets_that_of_the_highest_one(tmp_path: Path) -> None:
    each = {"w4a4": layers(32), "w8a8": layers(32, hidden=5), "w3a3": layers(32)}
    ExitHeads([ExitHead("mean_max", each, None), ExitHead("", {}, None)]).save(tmp_path / "heads.safetensors")
    head = ExitHeads.load(tmp_path / "heads.safetensors", network("resnet20_cifar")).heads[0]
    assert sizes(head.classifier(Precision("w4a4")).quantized) == (32, 3)
    assert head.classifier(Precision("w6a6")) is head.classifier(Precision("fp32")) is head.classifier(W8A8)
    assert head.classifier(W8A8).sizes == (32, 5, 3)
    assert isinstance(head.classifier(W8A8).quantized[3], QuantizedLinear)


BAD = {
    "no gates": ({}, {"pooling": "cls"}, "not a file of exit heads"),
    "poolings of other gates": ({}, {"gates": "3", "poolings": "mean,"}, "2 poolings of 3 gates"),
    "an unknown layer": ({"gate.1.any.float.9.weight": (3, 4)}, {"gates": "2", "poolings": "mean,"}, "unknown layers"),
    "half a head": ({"gate.1.any.float.0.weight": (3, 4)}, {"gates": "2", "poolings": "mean,"}, "do not fit together"),
    "layers that do not fit": (
        {"gate.1.any.float.0.mean": (4,), "gate.1.any.float.0.scale": (4,), "gate.1.any.float.1.weight": (3, 5),
         "gate.1.any.float.1.bias": (3,)},
        {"gates": "2", "poolings": "mean,"},
        "a layer of 5 inputs after 4 outputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_a_file_of_heads_is_refused(case: str, tmp_path: Path) -> None:
    shapes, facts, message = BAD[case]
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_tensors(tmp_path / "heads.safetensors", arrays or {"x": np.zeros(1)}, facts)
    with pytest.raises(IntegrityError, match=message):
        ExitHeads.load(tmp_path / "heads.safetensors", network("resnet20_cifar"))


def test_anonymous_heads_serve_every_precision() -> None:
    head = ExitHead("mean", {ANY: layers(16)}, None)
    assert head.classifier(W8A8) is head.classifier(Precision("w3a3")) is head.classifiers[ANY]
