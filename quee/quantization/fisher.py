"""How much the network's answer depends on each of its values: the diagonal of the Fisher information.

For each calibration sample a label is drawn from the float network's own probabilities. The mean squared gradient of its
log-likelihood is the diagonal of the Fisher information, which is that of the Hessian of the divergence from the float
network's answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from quee.quantization.layers import quantizable
from quee.quantization.units import BATCH, units_of
from quee.threads import one_thread


@dataclass(frozen=True)
class Fisher:
    """Squared gradients of a float network, their mean over calibration samples."""

    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    """Layer with weights to (out,), by output channel."""
    operands: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Product of activations to (features,) of each operand."""
    states: dict[str, Tensor] = field(default_factory=dict)
    """Unit to what is behind it: (tokens, dim), or (classes,), in units of their mean."""


def fisher(model: nn.Module, images: Tensor, seed: int = 0) -> Fisher:
    """The Fisher information of a float classifier on images (n, c, h, w); labels are drawn by seed."""
    random = torch.Generator().manual_seed(seed)
    layers, units = quantizable(model), units_of(model)
    taps: dict[tuple[str, str], Tensor] = {}
    sums: dict[tuple[str, str], Tensor] = {}

    def output(name: str) -> Callable[..., None]:
        return lambda module, inputs, value: taps.update({("output", name): value})

    def operands(name: str) -> Callable[..., None]:
        return lambda module, inputs: taps.update({("a", name): inputs[0], ("b", name): inputs[1]})

    handles = [
        module.register_forward_hook(output(name))
        if isinstance(module, nn.Linear | nn.Conv2d)
        else module.register_forward_pre_hook(operands(name))
        for name, module in layers.items()
    ]
    try:
        with one_thread(), torch.enable_grad():
            for part in images.split(BATCH):
                state = part.detach().clone().requires_grad_(True)
                for unit in units:
                    taps["state", unit.name] = state = unit.run(model, state)
                likelihood = state.log_softmax(dim=-1)
                label = torch.multinomial(likelihood.detach().cpu().exp(), 1, generator=random).to(state.device)
                total = likelihood.gather(-1, label).sum()
                found = torch.autograd.grad(total, list(taps.values()), allow_unused=True, materialize_grads=True)
                for (kind, name), gradient in zip(taps, found, strict=True):
                    conv = kind == "output" and isinstance(layers[name], nn.Conv2d)
                    mean = _summed(gradient.movedim(1, -1) if conv else gradient, kind)
                    sums[kind, name] = sums[kind, name] + mean if (kind, name) in sums else mean
                taps.clear()
    finally:
        for handle in handles:
            handle.remove()
    sums = {key: value / len(images) for key, value in sums.items()}
    channels = {key: value.cpu().numpy() for key, value in sums.items() if key[0] != "state"}
    return Fisher(
        {name: value for (kind, name), value in channels.items() if kind == "output"},
        {name: (channels["a", name], channels["b", name]) for kind, name in channels if kind == "a"},
        {name: (v / v.mean().clamp_min(1e-30)).float() for (kind, name), v in sums.items() if kind == "state"},
    )


def _summed(gradient: Tensor, kind: str) -> Tensor:
    """Squares of a gradient (n, …, features), summed over all but the last axis, of a state over the samples."""
    squares = gradient.double().square()
    return squares.sum(dim=0) if kind == "state" else squares.flatten(0, -2).sum(dim=0)
