"""A linear layer beside each block that takes the error of its quantization away, in closed form.

QwT (Fu et al., 2025): what the block's output lacks is regressed on the block's input. The layer is quantized too, and
what it costs is counted.
"""

import numpy as np
import torch
from torch import Tensor, nn

from quee.precision import Precision
from quee.quantization.config import QuantizationConfig
from quee.quantization.layers import QuantizedLinear
from quee.quantization.search import search_quantizer, thinned
from quee.quantization.units import BATCH, Unit
from quee.quantization.weights import confirmed_ridge, quantize_weight


def through(network: nn.Module, unit: Unit, x: Tensor, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """What enters a block (rows, dim) and what leaves it (rows, dim), on evenly spread rows of the states x (n, …)."""
    parts = x.split(BATCH)
    each = max(1, rows // len(parts))
    seen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def see(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for values, kept in zip((inputs[0], output), seen, strict=True):
            flat = values.flatten(0, -2)
            picked = np.unique(np.linspace(0, len(flat) - 1, min(each, len(flat))).astype(np.int64))
            kept.append(flat[torch.from_numpy(picked)].double().cpu().numpy())

    handle = network.get_submodule(unit.name).register_forward_hook(see)
    try:
        with torch.inference_mode():
            for part in parts:
                unit.run(network, part)
    finally:
        handle.remove()
    return np.concatenate(seen[0]), np.concatenate(seen[1])


def compensation(
    rows: np.ndarray, missing: np.ndarray, precision: Precision, config: QuantizationConfig, name: str
) -> QuantizedLinear:
    """The layer that comes nearest to giving `missing` (n, out) on rows (n, in); its bias alone where half of the rows
    do not confirm a regression on the others.
    """
    layer = QuantizedLinear(nn.Linear(rows.shape[1], missing.shape[1]), precision)
    layer.input = search_quantizer(thinned(rows), precision.activation_bits, config.activations, name)
    seen = (layer.input(torch.from_numpy(rows).float()) * layer.input.scale).double().numpy()
    start = np.zeros((missing.shape[1], rows.shape[1]))
    fitted = confirmed_ridge(start, seen, missing, config.ridge_strength)
    squares = torch.from_numpy(np.square(seen).mean(axis=0))
    integers, scale = quantize_weight(torch.from_numpy(fitted), precision.weight_bits, config.weights, squares)
    kernel = integers.double().numpy() * scale.double().numpy()[:, None]
    bias = missing.mean(axis=0) - kernel @ seen.mean(axis=0)
    layer.set_weight(integers, scale, torch.from_numpy(bias).float())
    layer.finalize()
    return layer
