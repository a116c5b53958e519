"""Any classifier of timm by timm's name, if it is a chain of blocks: its own modules, run piece by piece.

`quee/network/cutting.py` finds the pieces. ResNets, ConvNeXts, EfficientNets, Swin and BEiT are among them.
"""

import sys
from collections.abc import Sequence
from functools import cache
from inspect import signature
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame as TimmConv2dSame
from timm.layers import SEModule
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from timm.layers.grn import GlobalResponseNorm
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing, sides
from quee.errors import UsageError
from quee.network import HEAD
from quee.network.base import SegmentedBackbone, equal_gates
from quee.network.convolution import Conv2dSame
from quee.network.cutting import chain_of
from quee.network.pooling import mean
from quee.network.products import hand_over
from quee.network.timm_models import NO_HEAD, is_headless, timm_input
from quee.network.timm_models import is_timm as knows

__all__ = ["TimmChain", "create", "is_headless", "knows"]


class _InDouble(nn.Module):
    """Computes in double precision, so that a mean over positions does not depend on how the batch is split."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double()).to(x.dtype)  # type: ignore[misc, no-any-return]


class StablePool(_InDouble, FastAdaptiveAvgPool):
    """timm's pooling."""


class StableAdaptivePool(_InDouble, nn.AdaptiveAvgPool2d):
    """torch's pooling."""


class StableResponseNorm(_InDouble, GlobalResponseNorm):
    """Global response normalisation."""


class StableExcite(SqueezeExcite):
    """Squeeze-and-excitation of the EfficientNets, (n, c, h, w) to the same shape; its mean is in double precision."""

    def forward(self, x: Tensor) -> Tensor:
        squeezed = mean(x.flatten(2).transpose(1, 2))[:, :, None, None]
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(squeezed))))


class StableSqueeze(SEModule):
    """Squeeze-and-excitation of the other networks, in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        squeezed = mean(x.flatten(2).transpose(1, 2))[:, :, None, None]
        if self.add_maxpool:
            squeezed = (squeezed + x.amax((2, 3), keepdim=True)) / 2
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(squeezed)))))


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    TimmConv2dSame: Conv2dSame,
    FastAdaptiveAvgPool: StablePool,
    nn.AdaptiveAvgPool2d: StableAdaptivePool,
    GlobalResponseNorm: StableResponseNorm,
    SqueezeExcite: StableExcite,
    SEModule: StableSqueeze,
}
"""timm's layers that are replaced."""


class TimmChain(SegmentedBackbone):
    """A timm network run piece by piece; the state dict has timm's keys.

    Gates can be behind every block. A downsampling layer belongs to the block behind it. States are maps (n, c, h, w) or
    (n, h, w, c), or tokens (n, tokens, width).
    """

    head_modules = ()  # `segment_of` knows the modules of the head

    def __init__(self, model: nn.Module, input: Preprocessing) -> None:
        """Raises UsageError where the network cannot be cut, or names a layer that cannot be quantized."""
        super().__init__()
        if model.num_classes < 1:  # type: ignore[operator]
            raise UsageError(NO_HEAD)
        for module in model.modules():
            if getattr(module, "inplace", False):  # states are used more than once
                module.inplace = False  # type: ignore[assignment]
            if (ours := _OURS.get(type(module))) is not None:
                module.__class__ = ours  # with the same parts and settings
        self.chain, self.input = chain_of(model.eval(), input.shape), input
        self.adopt(model)
        for name, (products, linears) in self.chain.products.items():
            hand_over(self.get_submodule(name), products, linears)
        for name in self.chain.fixed:
            self.get_submodule(name).fixed = True  # type: ignore[assignment]
        self.num_classes, self.pretrained_cfg = model.num_classes, model.pretrained_cfg  # type: ignore[assignment]
        shapes = [piece.shape for piece in self.chain.pieces[1:-1]]
        with_prefix = all(len(shape) == 2 and not _is_grid(shape[0], input.size) for shape in shapes)
        self.prefix_tokens = int(getattr(model, "num_prefix_tokens", 0)) if with_prefix else 0  # type: ignore[arg-type]
        self.has_class_token = self.prefix_tokens > 0 and getattr(model, "cls_token", None) is not None
        stem = self.chain.pieces[0].shape
        self.grid = self._grid(stem[0]) if len(stem) == 2 else (0, 0)
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._module, self._owner = type(model).__module__, self.chain.owners()

    @property
    def block_names(self) -> list[str]:
        return list(self.chain.blocks)

    @property
    def logits_layer(self) -> str:
        name = self.pretrained_cfg.get("classifier")  # type: ignore[operator, union-attr]
        return name if isinstance(name, str) else super().logits_layer

    @property
    def gates(self) -> tuple[int, ...]:
        """Number of blocks before each gate; by default four segments of about equally many multiply-adds."""
        return self._gates or equal_gates([piece.macs for piece in self.chain.pieces[1:-1]])

    def block_of(self, module_name: str) -> int | None:
        piece = self._piece_of(module_name)
        return piece - 1 if 1 <= piece <= len(self.chain.blocks) else None

    def segment_of(self, module_name: str) -> int:
        return HEAD if self._piece_of(module_name) > len(self.chain.blocks) else super().segment_of(module_name)

    def _piece_of(self, name: str) -> int:
        """The piece of the chain that a module or parameter belongs to: 0 for the stem and for what nothing runs."""
        while name and name not in self._owner:
            name = name.rpartition(".")[0]
        return self._owner.get(name, 0)

    def residuals_of(self, block: int) -> int:
        return self.chain.residuals[block]

    def embed(self, x: Tensor) -> Tensor:
        return self.chain.pieces[0].run(self, x)

    def run_block(self, index: int, state: Tensor) -> Tensor:
        return self.chain.pieces[index + 1].run(self, state)

    def classify(self, state: Tensor) -> Tensor:
        return self.chain.pieces[-1].run(self, state)

    def width(self, gate: int) -> int:
        return self._shape(gate)[self._channels(gate)]

    def positions(self, state: Tensor, gate: int) -> Tensor:
        """Maps, and the tokens behind the prefix, as a map (n, width, rows, columns)."""
        if state.dim() > 3:
            return state.movedim(self._channels(gate) + 1, 1)
        grid = self._grid(self._shape(gate)[0])
        return state[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def _grid(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of so many tokens behind the prefix, in the proportions of the images; else one column."""
        patches = tokens - self.prefix_tokens
        rows = round((patches * self.input.size[0] / self.input.size[1]) ** 0.5)
        return (patches, 1) if not rows or patches % rows else (rows, patches // rows)

    def class_token(self, state: Tensor, gate: int) -> Tensor:
        return state[:, 0] if self.has_class_token else super().class_token(state, gate)

    def _shape(self, gate: int) -> tuple[int, ...]:
        """Shape of the state at a gate, without the axis of samples."""
        return self.chain.pieces[self.gates[gate - 1]].shape

    def _channels(self, gate: int) -> int:
        """The axis of channels in that shape: of a map the one that is not of an image's proportions."""
        shape = self._shape(gate)
        if len(shape) != 3:
            return len(shape) - 1
        first, last = _is_map(shape[1:], self.input.size), _is_map(shape[:2], self.input.size)
        return (2 if self.channels_last else 0) if first == last else 2 if last else 0

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names, and of the sizes, that timm itself reads for this network."""
        adapt = getattr(sys.modules[self._module], "checkpoint_filter_fn", None)
        return state if adapt is None else adapt(state, self)  # type: ignore[no-any-return]


def _is_map(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether two axes of a state can be the rows and columns of a map of images of that size."""
    shrunk = [pixels / places for pixels, places in zip(size, shape, strict=True)]
    return min(shrunk) >= 1 and max(shrunk) < 1.5 * min(shrunk)


def timm_network(
    name: str, img_size: int | Sequence[int] | None = None, **kwargs: Any
) -> tuple[nn.Module, Preprocessing]:
    """timm's network of a name with random weights, and its preprocessing at an image size (default: timm's own)."""
    if img_size is not None and takes_size(name):
        kwargs["img_size"] = img_size
    model = timm.create_model(name, pretrained=False, **kwargs)
    if img_size is None:
        return model, timm_input(model, channels=kwargs.get("in_chans"))
    return model, timm_input(model, sides(img_size), kwargs.get("in_chans"))


def _is_grid(tokens: int, size: tuple[int, int]) -> bool:
    """Whether so many tokens are the patches of an image alone; class attention of some networks comes only behind its blocks."""
    height, width = size
    return any((height // side) * (width // side) == tokens for side in range(1, min(size) + 1))


@cache
def takes_size(name: str) -> bool:
    """Whether timm's network of a name is built for one image size."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return any("img_size" in signature(kind).parameters for kind in type(model).__mro__)


def create(name: str, **kwargs: Any) -> TimmChain:
    """timm's network of a name with random weights; `kwargs` go to `timm.create_model`, `img_size` may be any size.

    Raises UsageError where the network is no chain of stages.
    """
    return TimmChain(*timm_network(name, **kwargs))
