"""timm's networks that are chains of stages (ResNet, ConvNeXt, EfficientNet and the like) as segmented backbones.

The chain is found by running a network once without computing: a module can be cut from the next one where its output,
and nothing else, is the next one's input.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from itertools import accumulate
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame as TimmConv2dSame
from timm.layers import SEModule
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from timm.layers.grn import GlobalResponseNorm
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn
from torch.func import functional_call

from quee.data.preprocessing import Preprocessing, spread
from quee.errors import UsageError
from quee.network.base import SegmentedBackbone, mean, pooled, weight_products
from quee.network.convolution import Conv2dSame

NO_HEAD = "this model has no classification head of its own; give num_classes among its kwargs"
GATES = 4
"""Number of gates, if none are given."""


class StablePool(FastAdaptiveAvgPool):
    """The mean over positions in double precision, so that it does not depend on how the batch is split."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double()).to(x.dtype)


class StableAdaptivePool(nn.AdaptiveAvgPool2d):
    """torch's pooling, in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double()).to(x.dtype)


class StableResponseNorm(GlobalResponseNorm):
    """Global response normalisation in double precision, for the same reason."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double()).to(x.dtype)


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


@dataclass
class _Call:
    """One call of a module."""

    name: str
    module: nn.Module
    given: Tensor
    """Its input, where that is one tensor; tensors are told apart by identity, and their versions tell changes in place."""
    version: int
    found: Tensor | None = None
    """Its output, where that is one tensor."""
    made: int = 0
    macs: int = 0
    inner: list["_Call"] = field(default_factory=list)

    @property
    def changes_input(self) -> bool:
        return self.given is not self.found and self.given._version != self.version


class _Features(nn.Module):
    """All but a network's head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)  # type: ignore[no-any-return, operator]


def _called(model: nn.Module, shape: Sequence[int]) -> _Call:
    """The calls within a network's `forward_features` on images of a shape (c, h, w); nothing is computed."""
    features = _Features(model).eval()
    with torch.inference_mode(False), torch.no_grad(), _recorded(features) as calls:  # versions tell changes in place
        state = {name: value.to("meta") for name, value in (*features.named_parameters(), *features.named_buffers())}
        functional_call(features, state, (torch.zeros(2, *shape, device="meta"),))
    return calls[0]


@contextmanager
def _recorded(features: nn.Module) -> Iterator[list[_Call]]:
    done: list[_Call] = []
    open_calls: list[_Call] = []

    def before(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
            alone = len(given) == 1 and isinstance(given[0], Tensor) and not keywords
            x = given[0] if alone else torch.empty(0, device="meta")  # of no module's output
            open_calls.append(_Call(name, module, x, x._version))

        return see

    def after(module: nn.Module, given: Any, found: Any) -> None:
        call = open_calls.pop()
        if isinstance(found, Tensor):
            call.found, call.made = found, found._version
            call.macs = sum(inner.macs for inner in call.inner) + weight_products(module, found)[0]
        (open_calls[-1].inner if open_calls else done).append(call)

    handles = []
    for name, module in features.named_modules():
        handles.append(module.register_forward_pre_hook(before(name.removeprefix("model.")), with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        yield done
    finally:
        for handle in handles:
            handle.remove()


def _break(call: _Call) -> str:
    """Where a call is not the chain of the calls within it; empty where it is."""
    ends = [*call.inner, _Call("its output", call.module, call.found, call.made)]  # type: ignore[arg-type]
    tensor, version, before = call.given, call.version, "its input"
    for inner in ends:
        if inner.given is not tensor or inner.version != version or inner.changes_input:
            return f"between {before} and {inner.name}"
        tensor, version, before = inner.found, inner.made, inner.name  # type: ignore[assignment]
    return ""


def _flat(call: _Call) -> list[_Call]:
    """A call as the chain of the calls within it, if these are blocks or stages, and not layers."""
    if not call.inner or _break(call) or any(_is_layer(inner.module) for inner in call.inner):
        return [call]
    return [part for inner in call.inner for part in _flat(inner)]


def _is_layer(module: nn.Module) -> bool:
    """Whether a module has weights, and only weights of its own."""
    own, whole = (sum(1 for _ in module.parameters(recurse)) for recurse in (False, True))
    return 0 < own == whole


def _is_between(call: _Call) -> bool:
    """Whether a module only leads to the next block of its stage."""
    return call.name.rpartition(".")[2] == "downsample" or next(call.module.parameters(), None) is None


@dataclass(frozen=True)
class Block:
    """Neighbouring modules of a chain that are not cut apart: a block, and what leads to it."""

    name: str
    """Name of the block's own module."""
    parts: tuple[str, ...]
    """Names of all its modules in the order of execution."""
    width: int
    """Channels of its output."""
    macs: int
    """Multiply-adds with weights, per sample."""


@dataclass(frozen=True)
class Chain:
    """A network cut into modules that are run one after the other."""

    stem: tuple[str, ...]
    blocks: tuple[Block, ...]
    tail: tuple[str, ...]
    """Modules between the last block and the head."""


def chain_of(model: nn.Module, shape: Sequence[int], channels_last: bool = False) -> Chain:
    """The chain of a timm network for images of a shape (c, h, w).

    Raises UsageError saying where a network is no chain, or that its state is not a map or tokens.
    """
    whole = _called(model, shape)
    if where := _break(whole):
        kind = type(model).__name__
        raise UsageError(
            f"a {kind} cannot be cut: {where}, more than one tensor is passed on, or one that is changed in place"
        )
    top = [(call, _flat(call)) for call in whole.inner]
    stages = [index for index, (call, parts) in enumerate(top) if parts != [call]]
    if not stages:
        kind = type(model).__name__
        raise UsageError(
            f"a {kind} cannot be cut: it has no stages of blocks that pass on one tensor, and nothing else"
        )
    middle = [part for _, parts in top[stages[0] : stages[-1] + 1] for part in parts]
    stem, tail = ([call.name for call, _ in part] for part in (top[: stages[0]], top[stages[-1] + 1 :]))
    blocks: list[Block] = []
    waiting: list[_Call] = []
    for call in middle:
        waiting.append(call)
        if not _is_between(call):
            blocks.append(_block(call, waiting, channels_last))
            waiting = []
    names = [name for block in blocks for name in block.parts]
    if len(set(names)) < len(names):
        raise UsageError(f"a {type(model).__name__} cannot be cut: its blocks share weights")
    return Chain(tuple(stem), tuple(blocks), (*(call.name for call in waiting), *tail))


def _block(call: _Call, parts: Sequence[_Call], channels_last: bool) -> Block:
    found = call.found
    assert found is not None
    if found.dim() not in (3, 4) or len(found) != len(call.given):
        raise UsageError(f"the state after {call.name} has the shape {tuple(found.shape[1:])}; valid: maps or tokens")
    width = found.shape[-1 if channels_last or found.dim() == 3 else 1]
    return Block(call.name, tuple(part.name for part in parts), width, sum(part.macs for part in parts))


def equal_gates(macs: Sequence[int], gates: int = GATES) -> tuple[int, ...]:
    """Numbers of blocks before each of so many gates, between which the multiply-adds are as equal as blocks allow.

    There are fewer gates where there are fewer blocks.
    """
    done = list(accumulate(macs))
    gates, cuts = min(gates, len(done)), [0]
    for gate in range(1, gates):
        possible = range(cuts[-1] + 1, len(done) - gates + gate + 1)  # each later segment needs a block
        cuts.append(min(possible, key=lambda blocks: abs(done[blocks - 1] * gates - done[-1] * gate)))
    return (*cuts[1:], len(done))


class TimmChain(SegmentedBackbone):
    """A timm network run block by block; the state dict has timm's keys.

    Gates can be behind every block. A downsampling layer belongs to the block behind it. Any image size that the
    network's strides allow works.
    """

    residuals = 1

    def __init__(self, model: nn.Module, input: Preprocessing, channels_last: bool = False) -> None:
        """`channels_last`: whether states are (n, h, w, c). Raises UsageError where the network is no chain."""
        super().__init__()
        if model.num_classes < 1:  # type: ignore[operator]
            raise UsageError(NO_HEAD)
        for module in model.modules():
            if getattr(module, "inplace", False):  # states are used more than once
                module.inplace = False  # type: ignore[assignment]
            if (ours := _OURS.get(type(module))) is not None:
                module.__class__ = ours  # with the same parts and settings
        self.chain, self.channels_last = chain_of(model, input.shape, channels_last), channels_last
        self._head = type(model).forward_head  # type: ignore[attr-defined]
        self.__dict__.update(vars(model))  # timm's `forward_head` reads the settings
        self.input = input
        outside = {name.partition(".")[0] for block in self.chain.blocks for name in block.parts} | {*self.chain.stem}
        self.head_modules = tuple(name for name, _ in self.named_children() if name not in outside)
        self._owner = {part: index for index, block in enumerate(self.chain.blocks) for part in block.parts}

    @property
    def block_names(self) -> list[str]:
        return [block.name for block in self.chain.blocks]

    @property
    def logits_layer(self) -> str:
        name = self.pretrained_cfg.get("classifier")  # type: ignore[operator, union-attr]
        return name if isinstance(name, str) else super().logits_layer

    @property
    def gates(self) -> tuple[int, ...]:
        """Number of blocks before each gate; by default four segments of about equally many multiply-adds."""
        return self._gates or equal_gates([block.macs for block in self.chain.blocks])

    def block_of(self, module_name: str) -> int | None:
        parts = module_name.split(".")
        names = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        return next((self._owner[name] for name in names if name in self._owner), None)

    def embed(self, x: Tensor) -> Tensor:
        return self._run(self.chain.stem, x)

    def run_block(self, index: int, state: Tensor) -> Tensor:
        return self._run(self.chain.blocks[index].parts, state)

    def classify(self, state: Tensor) -> Tensor:
        return self._head(self, self._run(self.chain.tail, state))  # type: ignore[no-any-return, operator]

    def _run(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def width(self, gate: int) -> int:
        return self.chain.blocks[self.gates[gate - 1] - 1].width

    def pool(self, state: Tensor, gate: int, pooling: str = "cls_mean") -> Tensor:
        if self.channels_last or state.dim() == 3:
            return pooled(state.flatten(1, -2), pooling)
        return super().pool(state, gate, pooling)


def timm_network(
    name: str, img_size: int | Sequence[int] | None = None, **kwargs: Any
) -> tuple[nn.Module, Preprocessing]:
    """timm's network of a name with random weights, and its preprocessing at an image size (default: timm's own)."""
    if img_size is not None and takes_size(name):
        kwargs["img_size"] = img_size
    model = timm.create_model(name, pretrained=False, **kwargs)
    config = timm.data.resolve_model_data_config(model)
    size = tuple(config["input_size"][1:]) if img_size is None else (img_size, img_size)
    height, width = size if isinstance(img_size, int | None) else img_size
    channels = kwargs.get("in_chans", config["input_size"][0])
    means, deviations = spread(config["mean"], channels), spread(config["std"], channels)
    return model, Preprocessing(
        (height, width), config["crop_pct"], config["interpolation"], means, deviations, channels
    )


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


@cache
def is_timm(name: str) -> bool:
    """Whether timm knows the name and, if it has one, the tag of its weights."""
    base, _, tag = name.partition(".")
    return timm.is_model(base) and (not tag or name in timm.list_pretrained(f"{base}.*"))


def is_headless(name: str) -> bool:
    """Whether timm's published network of a name has no classification head."""
    config = timm.get_pretrained_cfg(name) if is_timm(name) else None
    return config is not None and config.num_classes == 0
