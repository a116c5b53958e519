"""BatchNorm folded into the convolution before it, where nothing else reads that convolution."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.files import load_quantized, save_quantized
from quee.precision import Precision
from quee.quantization.calibration import quantize_
from quee.quantization.folding import batch_norm_pairs, folded
from quee.settings.quantize import QuantizationConfig


class Branching(SegmentedBackbone):
    """Of four convolutions two are read by their BatchNorm alone: `conv` and `last`."""

    head_modules = ("head",)

    def __init__(self) -> None:
        super().__init__()
        self.input, self.num_classes = Preprocessing((6, 6)), 3
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.read_twice, self.norm_of_twice = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.activated, self.norm_behind = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))])
        self.head = nn.Linear(4, 3)

    def embed(self, x: Tensor) -> Tensor:
        y = self.read_twice(self.norm(self.conv(x)))
        y = y + self.norm_of_twice(y)
        return self.norm_behind(self.activated(y).relu_())

    def classify(self, state: Tensor) -> Tensor:
        return self.head(self.pool(state, 1, "mean"))

    def width(self, gate: int) -> int:
        return 4


def with_statistics(backbone: SegmentedBackbone) -> SegmentedBackbone:
    """The backbone with random statistics and affine parameters in its BatchNorm."""
    torch.manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias)
    return backbone.requires_grad_(False).eval()


@pytest.fixture
def resnet() -> SegmentedBackbone:
    return with_statistics(create_backbone("resnet20_cifar", shortcut="B", img_size=8, depth=6))


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def images(backbone: SegmentedBackbone, n: int = 8) -> Tensor:
    return torch.randn(n, *backbone.input.shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_the_folded_network_gives_the_same_logits(resnet: SegmentedBackbone) -> None:
    x, before = images(resnet), deepcopy(resnet.state_dict())
    plain = folded(resnet)
    assert not norms(plain)
    torch.testing.assert_close(plain(x), resnet(x), rtol=1e-5, atol=1e-5)
    assert len(norms(resnet)) == 1 + 2 * 6 + 2
    assert all(torch.equal(value, before[key]) for key, value in resnet.state_dict().items())


@torch.inference_mode()
def test_a_convolution_that_others_read_too_keeps_its_norm() -> None:
    backbone = with_statistics(Branching())
    assert batch_norm_pairs(backbone) == {"conv": "norm", "blocks.0.0": "blocks.0.1"}
    plain, x = folded(backbone), images(backbone)
    assert norms(plain) == ["norm_of_twice", "norm_behind"]
    torch.testing.assert_close(plain(x), backbone(x), rtol=1e-5, atol=1e-5)


def test_a_network_without_batch_norm_is_not_copied() -> None:
    backbone = create_backbone("vit_digits", depth=1)
    assert folded(backbone) is backbone


@torch.inference_mode()
def test_a_quantized_network_has_none_and_is_read_as_it_was_written(resnet: SegmentedBackbone, tmp_path: Path) -> None:
    x = images(resnet)
    quantized = quantize_(deepcopy(resnet), QuantizationConfig("w8a8", "minmax"), [x])
    assert isinstance(quantized, SegmentedBackbone)
    assert not norms(quantized)
    assert (quantized(x) - resnet(x)).norm() < 0.1 * resnet(x).norm()
    save_quantized(tmp_path, Precision("w8a8"), quantized)
    assert torch.equal(load_quantized(tmp_path, Precision("w8a8"), resnet)(x), quantized(x))
