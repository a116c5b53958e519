"""`quantize_`: observe a float model on calibration batches, choose scales, replace its layers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import QueeError
from quee.precision import Precision
from quee.quantization.layers import (
    QuantizedConv2d,
    QuantizedMatMul,
    layer_precision,
    quantizable,
    quantized_layer,
)
from quee.quantization.quantizers import quantize_weight, search_range

ROWS = 4096
"""Rows of each layer's input kept for the searches: the buffer that bounds calibration's memory."""


@dataclass(frozen=True)
class QuantizationConfig:
    """How a network is quantized to one precision."""

    precision: Precision
    weights: str = "mse"
    """Search of weight scales: `minmax` or `mse`."""
    activations: str = "mse"
    """Search of activation ranges: `minmax`, `percentile` or `mse`."""
    bias_correction: bool = True
    """Absorb the mean error of each layer's output in its bias."""


class Observer:
    """Keeps a bounded, evenly spread choice of the rows of each operand of one layer."""

    def __init__(self, batches: int) -> None:
        self.per_batch = max(1, ROWS // batches)
        self.rows: list[list[np.ndarray]] = [[], []]

    def see(self, operand: int, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2)
        picked = np.unique(np.linspace(0, len(rows) - 1, min(self.per_batch, len(rows))).astype(np.int64))
        self.rows[operand].append(rows[torch.from_numpy(picked)].float().cpu().numpy())

    def values(self, operand: int = 0) -> np.ndarray:
        """(rows, features)"""
        return np.concatenate(self.rows[operand])


def unfolded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The patches a convolution multiplies: (n, patches, in)."""
    assert not isinstance(conv.padding, str)
    return nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).transpose(1, 2)


def observe(model: nn.Module, layers: dict[str, nn.Module], batches: list[Tensor]) -> dict[str, Observer]:
    """Run the float model on the batches and keep what enters each layer."""
    observers = {name: Observer(len(batches)) for name in layers}

    def hook(name: str, module: nn.Module):  # type: ignore[no-untyped-def]
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for operand, x in enumerate(inputs):
                if isinstance(module, nn.Conv2d):
                    x = unfolded(module, x)
                observers[name].see(operand, x)

        return see

    handles = [module.register_forward_pre_hook(hook(name, module)) for name, module in layers.items()]
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return observers


def quantize_(model: nn.Module, config: QuantizationConfig, calibration_batches: Iterable[Tensor]) -> nn.Module:
    """Quantize a float model in place and return it.

    `calibration_batches` are image tensors (n, c, h, w). Nothing is replaced when an error is raised: QueeError for
    absent, constant or non-finite calibration data, naming the layer, or for a layer that nothing quantizes.
    """
    precision = config.precision
    if precision.is_float:
        raise QueeError(f"quantize_ makes integer precisions such as w8a8, not {precision}")
    layers = quantizable(model)
    batches = _checked(calibration_batches)
    observers = observe(model, layers, batches)
    replacements = {
        name: _calibrated(name, module, layer_precision(model, name, precision), config, observers[name])
        for name, module in layers.items()
    }
    for name, layer in replacements.items():
        model.set_submodule(name, layer)
    return model


def _checked(batches: Iterable[Tensor]) -> list[Tensor]:
    listed = list(batches)
    samples = sum(len(batch) for batch in listed)
    if samples < 2:
        raise QueeError(f"calibration needs at least 2 samples, got {samples}")
    shapes = {tuple(batch.shape[1:]) for batch in listed}
    if len(shapes) > 1:
        raise QueeError(f"calibration batches differ in shape: {sorted(shapes)}")
    if not all(bool(torch.isfinite(batch).all()) for batch in listed):
        raise QueeError("calibration data contain NaN or infinity")
    if all(bool((batch == listed[0][:1]).all()) for batch in listed):
        raise QueeError("calibration data are constant: all samples are equal")
    return listed


def _calibrated(
    name: str, module: nn.Module, precision: Precision, config: QuantizationConfig, observer: Observer
) -> nn.Module:
    layer = quantized_layer(module, precision)
    bits = precision.activation_bits
    if isinstance(layer, QuantizedMatMul):
        for operand, quantizer in enumerate((layer.a, layer.b)):
            quantizer.set_range(*search_range(_thin(observer.values(operand)), bits, config.activations, name))
        return layer
    rows = observer.values()
    layer.input.set_range(*search_range(_thin(rows), bits, config.activations, name))
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    x = torch.from_numpy(rows)
    seen = layer.input(x) * layer.input.scale
    integers, scale = quantize_weight(weight, precision.weight_bits, config.weights, seen.double().square().mean(dim=0))
    layer.set_weight(integers, scale, bias if isinstance(bias, Tensor) else None)
    if config.bias_correction:
        float_output = x.double() @ weight.detach().double().flatten(1).t()
        output = seen.double() @ (integers * scale[:, None]).double().t()
        layer.bias.add_((float_output - output).mean(dim=0).float())
    layer.finalize()
    assert not isinstance(layer, QuantizedConv2d) or layer.weight.shape[1] == rows.shape[1]
    return layer


def _thin(rows: np.ndarray, most: int = 1 << 14) -> np.ndarray:
    """An evenly spread choice of values, and always the extremes."""
    flat = rows.ravel()
    if flat.size <= most:
        return flat
    step = flat.size // most | 1  # odd, so that no column of an even width is left out
    return np.concatenate([flat[::step], [flat.min(), flat.max()]])
