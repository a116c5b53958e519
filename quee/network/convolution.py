"""Geometry of convolutions: padding, places, patches; and a convolution whose padding follows the input's size."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv2dSame(nn.Conv2d):
    """A convolution of stride s that gives ⌈size / s⌉ places, as TensorFlow pads: the odd zero comes last."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, padding_of(self, x.shape[2], x.shape[3]))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution multiplies its weights as they are; some of timm's change them first."""
    return type(conv).forward in (nn.Conv2d.forward, Conv2dSame.forward)


class Window(Protocol):
    """What a convolution and its quantized counterpart have in common."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    """Zeros at the top and left."""
    dilation: tuple[int, ...]


def padding_of(conv: Window, height: int, width: int) -> tuple[int, int, int, int]:
    """Zeros at the left, right, top and bottom of a map of this size, in the order of `functional.pad`."""
    if not (isinstance(conv, Conv2dSame) or getattr(conv, "same", False)):
        (top, left) = conv.padding
        return left, left, top, top
    missing = []
    for axis, size in ((1, width), (0, height)):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        missing.append(max((-(-size // conv.stride[axis]) - 1) * conv.stride[axis] + reach - size, 0))
    across, down = missing
    return across // 2, across - across // 2, down // 2, down - down // 2


def places(conv: Window, size: Sequence[int]) -> tuple[int, int]:
    """Number of patches along height and width of a map of size (height, width)."""
    left, right, top, bottom = padding_of(conv, *size)
    padded = (size[0] + top + bottom, size[1] + left + right)
    rows, columns = (
        (padded[i] - conv.dilation[i] * (conv.kernel_size[i] - 1) - 1) // conv.stride[i] + 1 for i in (0, 1)
    )
    return rows, columns


def patches_at(conv: Window, x: Tensor, picked: Tensor) -> Tensor:
    """Some patches (len(picked), channels · height · width) that a convolution multiplies in maps (n, c, h, w).

    `picked` are indices into all patches, ordered by sample, row and column. The others take no memory.
    """
    rows, columns = places(conv, x.shape[2:])
    padded = functional.pad(x, padding_of(conv, x.shape[2], x.shape[3]))
    sample, place = picked // (rows * columns), picked % (rows * columns)
    down, across = (torch.arange(conv.kernel_size[i], device=x.device) * conv.dilation[i] for i in (0, 1))
    row = (place // columns * conv.stride[0])[:, None] + down
    column = (place % columns * conv.stride[1])[:, None] + across
    found = padded[sample[:, None, None], :, row[:, :, None], column[:, None, :]]  # (picked, height, width, c)
    return found.permute(0, 3, 1, 2).flatten(1)
