"""ResNet for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2): 6n + 2 layers, three stages of n blocks.

State dicts have the keys of the public checkpoints of github.com/akamaster/pytorch_resnet_cifar10, with the classifier
under `head`. The states are maps. Any image size works, because the head reads the mean over all positions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from quee.data.preprocessing import Preprocessing, sides, spread
from quee.errors import require
from quee.network.base import SegmentedBackbone

WIDTHS = (16, 32, 64)
"""Channels of the stages; the first block of a later stage halves height and width."""
SHORTCUTS = ("A", "B")


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, new channels of zeros on both sides; (n, c, h, w) to (n, width, h/2, w/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        new = (self.width - x.shape[1]) // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new, new))


class Block(nn.Module):
    """Two 3×3 convolutions and the sum with the shortcut; (n, width before, h, w) to (n, width, h/stride, w/stride)."""

    def __init__(self, before: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if before != width:
            projection = nn.Conv2d(before, width, 1, stride, bias=False)
            projected = nn.Sequential(projection, nn.BatchNorm2d(width))
            self.shortcut = PaddedShortcut(width) if shortcut == "A" else projected

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class CifarResNet(SegmentedBackbone):
    """`depth` is the number of blocks, a third of them in each stage; `shortcut` is `A` (zeros) or `B` (1×1 convolution)."""

    head_modules = ("head",)
    residuals = 1

    def __init__(
        self,
        depth: int,
        shortcut: str = "A",
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 32,
    ) -> None:
        """Raises UsageError for values that no such network has."""
        super().__init__()
        height, width = sides(img_size)
        require(depth >= 1, f"depth must be at least 1 block; got {depth}")
        require(shortcut in SHORTCUTS, f"shortcut must be one of {', '.join(SHORTCUTS)}; got {shortcut!r}")
        require(num_classes >= 1, f"num_classes must be at least 1; got {num_classes}")
        require(min(height, width) >= 1, f"img_size must be at least 1; got {img_size}")
        self.num_classes = num_classes
        mean, std = spread(IMAGENET_DEFAULT_MEAN, in_chans), spread(IMAGENET_DEFAULT_STD, in_chans)
        # The public checkpoints were trained with ImageNet's mean and deviation, too.
        self.input = Preprocessing((height, width), 1.0, "bilinear", mean, std, in_chans)
        self.stages = [block * len(WIDTHS) // depth for block in range(depth)]
        self.conv1 = nn.Conv2d(in_chans, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        for stage in sorted(set(self.stages)):
            self.add_module(f"layer{stage + 1}", nn.Sequential(*self._stage(stage, shortcut)))
        self.head = nn.Linear(WIDTHS[self.stages[-1]], num_classes)
        self.apply(_initialise)

    def _stage(self, stage: int, shortcut: str) -> list[Block]:
        width, before, stride = WIDTHS[stage], WIDTHS[max(stage - 1, 0)], 2 if stage else 1
        rest = [Block(width, width, 1, shortcut) for _ in range(self.stages.count(stage) - 1)]
        return [Block(before, width, stride, shortcut), *rest]

    @property
    def block_names(self) -> list[str]:
        return [f"layer{stage + 1}.{i - self.stages.index(stage)}" for i, stage in enumerate(self.stages)]

    def embed(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))  # (n, 16, h, w)

    def classify(self, state: Tensor) -> Tensor:
        return self.head(self.pool(state, self.segments, "mean"))

    def width(self, gate: int) -> int:
        return WIDTHS[self.stages[self.gates[gate - 1] - 1]]

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state with the counters of BatchNorm that checkpoints of older versions of torch lack; nothing reads them."""
        counters = {key: value for key, value in self.state_dict().items() if key.endswith("num_batches_tracked")}
        return {**counters, **state}

    def keywords(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Depth, kind of shortcuts and channels."""
        return keywords(state)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


def keywords(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keywords of `CifarResNet` that names and shapes of weights tell; empty where they are of another network."""
    first = state.get("conv1.weight")
    if first is None or first.dim() != 4:
        return {}
    return {
        "depth": len({key for key in state if re.fullmatch(r"layer\d\.\d+\.conv1\.weight", key)}),
        "shortcut": "B" if any(".shortcut.0." in key for key in state) else "A",
        "in_chans": first.shape[1],
    }


DEPTHS = {f"resnet{6 * n + 2}_cifar": 3 * n for n in (3, 5, 7, 9, 18)}
"""By name: the number of blocks. The number in a name counts the layers on the longest way."""


def named(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The backbone that weights under its names are of, and its keywords beside the number of classes."""
    found = keywords(state)
    name = next((name for name, depth in DEPTHS.items() if depth == found.get("depth")), next(iter(DEPTHS)))
    usual = {"depth": DEPTHS[name], "shortcut": "A", "in_chans": 3}
    return name, {key: value for key, value in found.items() if value != usual[key]}


def create(name: str, **kwargs: Any) -> CifarResNet:
    """The ResNet of a name with random weights; `kwargs` replace or join its depth."""
    return CifarResNet(**{"depth": DEPTHS[name], **kwargs})
