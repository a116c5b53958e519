"""A network's units (stem, blocks, head) in the order of calibration, and the inputs of their layers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import QueeError
from quee.evenly import evenly
from quee.network import HEAD
from quee.network.base import SegmentedBackbone
from quee.network.convolution import patches_at, places
from quee.quantization.layers import quantizable

BATCH = 64


@dataclass(frozen=True)
class Unit:
    """A part of a network that is calibrated at once, on the states before it."""

    name: str
    segment: int
    """Number of its segment, from 1; 0 for the head."""
    run: Callable[[nn.Module, Tensor], Tensor]
    """Runs this part of a network: (network, state) to the state after it."""
    layers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    """LayerNorms within a block; they run in floating point and can be fitted freely."""


def units_of(model: nn.Module) -> list[Unit]:
    """The units of a network in the order of execution; one that is not segmented is a single unit."""
    names = tuple(quantizable(model))
    if not isinstance(model, SegmentedBackbone):
        return [Unit("network", 1, lambda network, x: network(x), names)]

    def block(index: int) -> Callable[[nn.Module, Tensor], Tensor]:
        return lambda network, state: network.run_block(index, state)  # type: ignore[operator]

    def within(index: int | None, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if model.block_of(name) == index)

    norms = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.LayerNorm) and m.weight is not None and m.bias is not None
    ]
    head = tuple(name for name in names if model.segment_of(name) == HEAD)
    stem = tuple(name for name in within(None, names) if name not in head)
    units = [Unit("stem", 1, lambda network, x: network.embed(x), stem)]  # type: ignore[operator]
    for index, name in enumerate(model.block_names):
        units.append(Unit(name, model.segment_of(name), block(index), within(index, names), within(index, norms)))
    return [*units, Unit("head", HEAD, lambda network, state: network.classify(state), head)]  # type: ignore[operator]


def run_unit(model: nn.Module, unit: Unit, x: Tensor) -> Tensor:
    """A unit's output on all samples, in batches."""
    with torch.no_grad():
        return torch.cat([unit.run(model, part) for part in x.split(BATCH)])


@dataclass
class Sources:
    """Which modules make the inputs of a unit's layers."""

    order: list[str] = field(default_factory=list)
    """Layers in the order of execution."""
    norm: dict[str, str] = field(default_factory=dict)
    """Layer to the LayerNorm whose output only this layer reads."""
    gelu: set[str] = field(default_factory=set)
    """Layers after a GELU."""


def sources(model: nn.Module, unit: Unit, x: Tensor) -> Sources:
    """Run a unit of a float network on a few samples, and find which module's output enters which layer."""
    found = Sources()
    behind: dict[tuple[int, torch.Size], tuple[str, str]] = {}
    takers: dict[str, list[str]] = {}
    alive = []  # keeps tensors alive, so that no address is used twice

    def made(name: str, kind: str) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            alive.append(output)
            behind[output.data_ptr(), output.shape] = (kind, name)

        return see

    def taken(name: str, layer: bool) -> Callable[..., None]:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if layer:
                found.order.append(name)
                _check_width(name, module, inputs[0])
            kind, source = behind.get((inputs[0].data_ptr(), inputs[0].shape), ("", ""))
            if kind == "norm":
                takers.setdefault(source, []).append(name if layer and len(inputs) == 1 else "")
            elif kind == "gelu" and isinstance(module, nn.Linear | nn.Conv2d):
                found.gelu.add(name)

        return see

    handles = []
    for name, module in model.named_modules():
        if name in unit.layers:
            handles.append(module.register_forward_pre_hook(taken(name, True)))
        elif isinstance(module, nn.LayerNorm):
            if module.weight is not None and module.bias is not None:
                handles.append(module.register_forward_hook(made(name, "norm")))
        elif "GELU" in type(module).__name__:
            handles.append(module.register_forward_hook(made(name, "gelu")))
        elif not list(module.children()) and not isinstance(module, nn.Identity | nn.Dropout):
            handles.append(module.register_forward_pre_hook(taken(name, False)))
    try:
        with torch.inference_mode():
            unit.run(model, x)
    finally:
        for handle in handles:
            handle.remove()
    found.norm = {by[0]: norm for norm, by in takers.items() if len(by) == 1 and by[0]}
    return found


def _check_width(name: str, layer: nn.Module, x: Tensor) -> None:
    """Raises QueeError naming a layer whose input has a wrong number of features."""
    width, axis = getattr(layer, "in_features", None), -1
    if isinstance(layer, nn.Conv2d):
        width, axis = layer.in_channels, -3
    if width is not None and (x.dim() < -axis or x.shape[axis] != width):
        raise QueeError(f"{name}: calibration values have the shape {tuple(x.shape)}; the layer takes {width} features")


class Observer:
    """Keeps an evenly spread choice of rows of each operand of one layer, up to a limit."""

    def __init__(self, batches: int, rows: int) -> None:
        self.per_batch = max(1, rows // batches)
        self.rows: list[list[np.ndarray]] = [[], []]

    def see(self, operand: int, x: Tensor, conv: nn.Conv2d | None = None) -> None:
        """`x` (…, features), or for a convolution maps (n, c, h, w), whose rows are the patches that it multiplies."""
        number = x.shape[:-1].numel() if conv is None else len(x) * prod(places(conv, x.shape[2:]))
        picked = torch.from_numpy(evenly(number, self.per_batch)).to(x.device)
        rows = x.detach().flatten(0, -2)[picked] if conv is None else patches_at(conv, x.detach(), picked)
        self.rows[operand].append(rows.float().cpu().numpy())

    def values(self, operand: int = 0) -> np.ndarray:
        """(rows, features)"""
        return np.concatenate(self.rows[operand])


VALUES = 1 << 24
"""Most values of a convolution in groups that are kept: its rows are long, and each group needs few of them."""
LEAST = 256
"""Least number of rows."""


def _most(layer: nn.Module) -> int:
    """Most rows of a layer's input to keep."""
    if not isinstance(layer, nn.Conv2d) or layer.groups == 1:
        return VALUES
    return max(LEAST, VALUES // (layer.in_channels * prod(layer.kernel_size)))


class _Done(Exception):  # noqa: N818 - a signal, not a fault
    """Raised when all wanted inputs have been seen, so that the rest of the unit need not run."""


def observe(model: nn.Module, unit: Unit, x: Tensor, names: Iterable[str], rows: int) -> dict[str, Observer]:
    """Run a unit on states x and keep the inputs of the named layers, at most so many rows of each."""
    parts = x.split(BATCH)
    observers = {name: Observer(len(parts), min(rows, _most(model.get_submodule(name)))) for name in names}
    alone = len(observers) == 1

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for operand, value in enumerate(inputs):
                observers[name].see(operand, value, module if isinstance(module, nn.Conv2d) else None)
            if alone:
                raise _Done

        return see

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in observers]
    try:
        with torch.inference_mode():
            for part in parts:
                try:
                    unit.run(model, part)
                except _Done:
                    continue
    finally:
        for handle in handles:
            handle.remove()
    return observers
