"""A classifier of timm as a segmented backbone: its own modules, run piece by piece."""

import sys
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing, spread
from quee.errors import UsageError
from quee.network import HEAD
from quee.network.base import SegmentedBackbone, mean, pooled
from quee.network.cutting import Chain, Named, chain_of
from quee.network.products import hand_over


class ChainBackbone(SegmentedBackbone):
    """A network of timm cut where one tensor is all that goes on; the state dict has timm's keys."""

    head_modules = ()  # `segment_of` knows the modules of the head

    def __init__(self, model: nn.Module, chain: Chain, input: Preprocessing) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in model.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in model._non_persistent_buffers_set)
        for module in self.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # a state is read by several segments
        for name, (products, linears) in chain.products.items():
            hand_over(self.get_submodule(name), products, linears)
        for name in chain.fixed:
            self.get_submodule(name).fixed = True  # type: ignore[assignment]
        self.input, self.num_classes, self.chain = input, model.num_classes, chain  # type: ignore[assignment]
        self.prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._parts = _parts(chain)

    @property
    def block_names(self) -> list[str]:
        return list(self.chain.blocks)

    def embed(self, x: Tensor) -> Tensor:
        return self.chain.pieces[0].run(self, x)

    def run_block(self, index: int, state: Tensor) -> Tensor:
        return self.chain.pieces[index + 1].run(self, state)

    def classify(self, state: Tensor) -> Tensor:
        return self.chain.pieces[-1].run(self, state)

    def _part(self, name: str) -> int:
        """The piece of the chain that a module or parameter belongs to; the stem's where nothing runs it."""
        while name and name not in self._parts:
            name = name.rpartition(".")[0]
        return self._parts.get(name, 0)

    def block_of(self, module_name: str) -> int | None:
        part = self._part(module_name)
        return part - 1 if 1 <= part <= len(self.chain.blocks) else None

    def segment_of(self, module_name: str) -> int:
        return HEAD if self._part(module_name) > len(self.chain.blocks) else super().segment_of(module_name)

    def width(self, gate: int) -> int:
        return self._shape(gate)[self._axis(gate)]

    def pool(self, state: Tensor, gate: int, pooling: str = "cls_mean") -> Tensor:
        """Tokens (n, tokens, width) with a class token: it and the mean of the others; without, and maps: like the base class."""
        positions = state.movedim(self._axis(gate) + 1, -1).flatten(1, -2)  # (n, positions, width)
        if state.dim() > 3 or not self.prefix_tokens:
            return pooled(positions, pooling)
        if pooling == "cls":
            return state[:, 0]
        return torch.cat([state[:, 0], mean(positions[:, self.prefix_tokens :])], dim=1)

    def _shape(self, gate: int) -> tuple[int, ...]:
        return self.chain.pieces[self.gates[gate - 1]].shape

    def _axis(self, gate: int) -> int:
        """The axis of channels of the state at a gate, without that of the samples."""
        shape = self._shape(gate)
        if len(shape) != 3:
            return len(shape) - 1
        first, last = _is_map(shape[1:], self.input.size), _is_map(shape[:2], self.input.size)
        return (2 if self.channels_last else 0) if first == last else 2 if last else 0

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights in any layout that timm reads for this network."""
        adapt: Callable[..., dict[str, Tensor]] | None = getattr(sys.modules[self.module], "checkpoint_filter_fn", None)
        return state if adapt is None else adapt(state, self)

    module: str = ""
    """timm's module of this network."""


def _is_map(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether two axes of a state can be the rows and columns of a map of images of that size."""
    shrunk = [pixels / places for pixels, places in zip(size, shape, strict=True)]
    return min(shrunk) >= 1 and max(shrunk) < 1.5 * min(shrunk)


def _parts(chain: Chain) -> dict[str, int]:
    """Name of a module or parameter that the pieces name, to the first piece that does."""
    parts: dict[str, int] = {}
    for number, piece in enumerate(chain.pieces):
        for step in piece.steps:
            given = [*_leaves(step.args), *_leaves(list(step.kwargs.values()))]
            for name in (step.module, *(leaf.name for leaf in given if isinstance(leaf, Named))):
                if name:
                    parts.setdefault(name, number)
    return parts


def _leaves(given: Any) -> list[Any]:
    if isinstance(given, list | tuple):
        return [leaf for item in given for leaf in _leaves(item)]
    return [given]


def is_timm(name: str) -> bool:
    """Whether timm knows the name, and weights of its tag if it has one."""
    base, _, tag = name.partition(".")
    return timm.is_model(base) and (not tag or name in timm.list_pretrained(f"{base}.*"))


def is_headless(name: str) -> bool:
    """Whether timm's network of that name has no classification head."""
    config = timm.get_pretrained_cfg(name) if is_timm(name) else None
    return config is not None and config.num_classes == 0


def chained(name: str, img_size: Any = None, **kwargs: Any) -> ChainBackbone:
    """timm's network of that name with random weights; `kwargs` go to `timm.create_model`.

    Raises UsageError with the reason for a network that cannot be cut, or that quantization cannot replace.
    """
    model, size = _built(name, img_size, **kwargs)
    with torch.device("meta"):
        plan, _ = _built(name, img_size, **kwargs)
    config = timm.data.resolve_model_data_config(model)
    height, width = size or config["input_size"][1:]
    channels = kwargs.get("in_chans", 3)
    means, deviations = spread(config["mean"], channels), spread(config["std"], channels)
    input = Preprocessing((height, width), config["crop_pct"], config["interpolation"], means, deviations, channels)
    if not model.num_classes:
        raise UsageError("this model has no classification head of its own; give num_classes among its kwargs")
    backbone = ChainBackbone(model, chain_of(plan.eval(), input.shape), input)
    backbone.module = type(model).__module__
    return backbone


def _built(name: str, img_size: Any, **kwargs: Any) -> tuple[nn.Module, tuple[int, int] | None]:
    """timm's network for images of a size, and the size that was given; networks without `img_size` take any."""
    size = None if img_size is None else (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if size is None:
        return timm.create_model(name, pretrained=False, **kwargs), None
    try:
        return timm.create_model(name, pretrained=False, img_size=size, **kwargs), size
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, pretrained=False, **kwargs), size
