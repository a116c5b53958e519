"""Folding of BatchNorm into the convolution before it.

Integer precisions are made from the folded network. The float network keeps its BatchNorm: its weights stay those of the
checkpoint, and it can be trained further.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from quee.network.base import SegmentedBackbone
from quee.network.convolution import is_plain

M = TypeVar("M", bound=nn.Module)

FOLDED = ("BatchNorm2d", "BatchNormAct2d")
"""torch's layer, and timm's with an activation behind it; named, because importing timm takes seconds."""


def folded(model: M) -> M:
    """A copy of a backbone in evaluation mode with BatchNorm folded; the model itself where there is nothing to fold."""
    pairs = batch_norm_pairs(model)
    return fold_(deepcopy(model), pairs) if pairs else model


def fold_(model: M, pairs: dict[str, str] | None = None) -> M:
    """Fold BatchNorm in place: γ(Wx + b − μ)/√(σ² + ε) + β is one convolution.

    The norm's activation takes its place, or an Identity where it has none.
    `pairs` are those of `batch_norm_pairs`, found where they are not given.
    """
    for conv_name, norm_name in (batch_norm_pairs(model) if pairs is None else pairs).items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(norm.running_mean, Tensor)
        assert isinstance(norm.running_var, Tensor)
        with torch.no_grad():
            gain = (norm.running_var.double() + norm.eps).rsqrt()
            gain = gain if norm.weight is None else gain * norm.weight.double()
            shift = (
                -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
            )
            bias = gain * shift if norm.bias is None else gain * shift + norm.bias.double()
            weight = conv.weight.double() * gain.view(-1, 1, 1, 1)
        needed = conv.weight.requires_grad
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=needed)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=needed)
        model.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    return model


def batch_norm_pairs(model: nn.Module) -> dict[str, str]:
    """By convolution, the BatchNorm that alone reads its output, as the backbone runs; networks of other kinds have none."""
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and type(module).__name__ in FOLDED and module.running_mean is not None
    }
    if not norms or not isinstance(model, SegmentedBackbone):
        return {}
    made: dict[int, str] = {}
    """Address of an output to its convolution."""
    runs: list[str] = []
    pairs: dict[str, tuple[str, int]] = {}

    def wrote(name: str) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            runs.append(name)
            made[output.data_ptr()] = name

        return see

    def read(name: str) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            runs.append(name)
            if (conv := made.get(inputs[0].data_ptr())) is not None:
                pairs[conv] = (name, inputs[0].data_ptr())

        return see

    handles = [module.register_forward_pre_hook(read(name)) for name, module in norms.items()]
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and is_plain(module):
            handles.append(module.register_forward_hook(wrote(name)))
    try:
        with torch.no_grad(), _Readers() as readers:
            model(torch.zeros(1, *model.input.shape, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return {
        conv: norm
        for conv, (norm, address) in pairs.items()
        if readers.count[address] == 1 and runs.count(conv) == runs.count(norm) == 1
    }


class _Readers(TorchDispatchMode):
    """Counts the operations that read each tensor, by its address; no address is used twice while its tensor lives."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = {}
        self.alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in args:
            for given in value if isinstance(value, list | tuple) else (value,):
                if isinstance(given, Tensor):
                    self.count[given.data_ptr()] = self.count.get(given.data_ptr(), 0) + 1
        result = func(*args, **(kwargs or {}))
        self.alive.append(result)
        return result
