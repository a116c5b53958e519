"""Learned rounding: a block's weights, scales, biases and norms are fitted to reproduce the float block's output.

Blocks are fitted one by one, like in BRECQ (Li et al. 2021), with a straight-through estimator for rounding that starts
from the compensated rounding. A result is kept only if a held-out part of the calibration samples confirms it. (QDrop
leaves half of the activations in floating point during training; this lowered the held-out error less.)
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quee.network.attention import MatMul
from quee.network.convolution import padding_of
from quee.quantization.formats import RoundedMatMul
from quee.quantization.layers import AffineQuantizer, QuantizedConv2d, QuantizedLinear, QuantizedMatMul, Quantizer
from quee.quantization.units import Unit
from quee.settings.quantize import QuantizationConfig
from quee.work.threads import one_thread

BATCH = 32
HELD_OUT = 8
"""One in this many calibration samples is held out to check what was learned."""
RATES = {"latent": 6e-3, "scale": 1e-3, "bias": 1e-3, "norm": 1e-3}
"""Learning rates; latents count in steps of the grid, scales and norms relative to their value."""


def rounded(x: Tensor) -> Tensor:
    """x rounded; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


class SoftQuantizer(nn.Module):
    """A quantizer with floating-point output, and gradients for its input and, if it is uniform, its scale."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.factor = nn.Parameter(torch.zeros_like(quantizer.scale))

    def forward(self, x: Tensor) -> Tensor:
        quantizer = self.quantizer
        if isinstance(quantizer, AffineQuantizer):
            scale = quantizer.scale * self.factor.exp()
            y = rounded(x / scale).clamp(quantizer.low, quantizer.high) * scale
        else:
            y = x + (quantizer(x.detach()) * quantizer.scale - x).detach()
        return y

    def harden(self) -> None:
        if isinstance(self.quantizer, AffineQuantizer):
            self.quantizer.scale.mul_(self.factor.detach().exp())


class SoftLayer(nn.Module):
    """A quantized layer with weights, in training."""

    def __init__(self, layer: QuantizedLinear | QuantizedConv2d, latent: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.limit = 2 ** (layer.precision.weight_bits - 1) - 1
        self.input = SoftQuantizer(layer.input)
        self.latent = nn.Parameter(latent.clone())  # weights in steps of their grid
        self.factor = nn.Parameter(torch.zeros_like(layer.weight_scale))
        self.bias = nn.Parameter(layer.bias.clone())

    @property
    def weight(self) -> Tensor:
        """The integers before learning; modules that use a layer's weight by themselves name it (`network/products.py`)."""
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        layer, scale = self.layer, self.layer.weight_scale * self.factor.exp()
        weight = rounded(self.latent.clamp(-self.limit, self.limit)) * scale[:, None]
        if isinstance(layer, QuantizedConv2d) and layer.groups > 1:  # patches of all groups would take much memory
            x = self.input(nn.functional.pad(x, padding_of(layer, *x.shape[2:])))
            kernels = weight.unflatten(1, (-1, *layer.kernel_size))
            return nn.functional.conv2d(x, kernels, self.bias, layer.stride, 0, layer.dilation, layer.groups)
        return layer.arranged(x, lambda rows: nn.functional.linear(self.input(rows), weight, self.bias))

    def harden(self) -> None:
        """Store the learned values in the quantized layer."""
        self.input.harden()
        scale = self.layer.weight_scale * self.factor.detach().exp()
        integers = self.latent.detach().clamp(-self.limit, self.limit).round()
        self.layer.set_weight(integers, scale, self.bias)
        self.layer.finalize()


class SoftMatMul(nn.Module):
    """A quantized product of activations, in training."""

    def __init__(self, layer: QuantizedMatMul) -> None:
        super().__init__()
        self.layer = layer
        self.a, self.b = SoftQuantizer(layer.a), SoftQuantizer(layer.b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) @ self.b(b)

    def harden(self) -> None:
        self.a.harden()
        self.b.harden()
        self.layer.finalize()


def reconstruct(
    network: nn.Module,
    unit: Unit,
    latents: Mapping[str, Tensor],
    x: Tensor,
    target: Tensor,
    config: QuantizationConfig,
) -> tuple[float, float]:
    """Train a calibrated unit in place on states x (n, …) to give `target` (n, …).

    `latents` are the layers' weights in steps of their grids, before rounding. Returns the error on the held-out samples
    before and after; the unit is not changed where the error does not fall.
    """
    generator = torch.Generator().manual_seed(config.seed)
    kept = unit_state(network, unit)
    soft: dict[str, SoftLayer | SoftMatMul] = {}
    for name in unit.layers:
        layer = network.get_submodule(name)
        if isinstance(layer, QuantizedMatMul):
            soft[name] = SoftMatMul(layer)
        else:
            assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
            soft[name] = SoftLayer(layer, latents[name].to(x.device))
    check = torch.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    before = _error(network, unit, x[check], target[check])
    norms = norms_of(network, unit)
    rounded_products = {name: module for name, module in network.named_modules() if isinstance(module, RoundedMatMul)}
    with one_thread():
        for name, module in soft.items():
            network.set_submodule(name, module)
        for name in rounded_products:  # rounding to levels has no gradient
            network.set_submodule(name, MatMul("float"))
        try:
            _train(network, unit, soft, norms, x[~check], target[~check], config, generator)
        finally:
            for name, module in soft.items():
                network.set_submodule(name, module.layer)
            for name, product in rounded_products.items():
                network.set_submodule(name, product)
            for norm in norms.values():
                norm.requires_grad_(False)
    with torch.no_grad():
        for module in soft.values():
            module.harden()
    after = _error(network, unit, x[check], target[check])
    if not after < before:
        load_unit_state(network, unit, kept)
    return before, after


def _train(
    network: nn.Module,
    unit: Unit,
    soft: Mapping[str, SoftLayer | SoftMatMul],
    norms: Mapping[str, nn.LayerNorm],
    x: Tensor,
    target: Tensor,
    config: QuantizationConfig,
    generator: torch.Generator,
) -> None:
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in RATES}
    for module in soft.values():
        for name, parameter in module.named_parameters():
            kind = name.rpartition(".")[2]
            if "layer." not in name and "quantizer" not in name:
                groups["scale" if kind == "factor" else kind].append(parameter)
    for norm in norms.values():
        norm.requires_grad_(True)
        groups["norm"] += [norm.weight, norm.bias]
    optimizer = torch.optim.Adam([{"params": groups[name], "lr": rate} for name, rate in RATES.items() if groups[name]])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.iterations)
    for _ in range(config.iterations):
        rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
        loss = (unit.run(network, x[rows]) - target[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _error(network: nn.Module, unit: Unit, x: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return float((unit.run(network, x) - target).square().double().mean())


def norms_of(network: nn.Module, unit: Unit) -> dict[str, nn.LayerNorm]:
    """A unit's LayerNorms in a network, by name."""
    return {name: network.get_submodule(name) for name in unit.norms}  # type: ignore[misc]


def unit_state(network: nn.Module, unit: Unit) -> dict[str, Tensor]:
    """A copy of everything `reconstruct` can change, by name."""
    names = [*unit.layers, *norms_of(network, unit)]
    return {f"{n}.{k}": v.detach().clone() for n in names for k, v in network.get_submodule(n).state_dict().items()}


def load_unit_state(network: nn.Module, unit: Unit, state: Mapping[str, Tensor]) -> None:
    for name in [*unit.layers, *norms_of(network, unit)]:
        module = network.get_submodule(name)
        module.load_state_dict({k: state[f"{name}.{k}"] for k in module.state_dict()})
        if isinstance(module, QuantizedLinear | QuantizedConv2d | QuantizedMatMul):
            module.finalize()
