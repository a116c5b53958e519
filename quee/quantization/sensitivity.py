"""How much each layer's quantization alone disturbs the network: one layer quantized, all others in floating point."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from quee.network.base import SegmentedBackbone
from quee.quantization.units import Unit, run_unit, sources, units_of


def sensitivity(
    backbone: SegmentedBackbone, quantized: SegmentedBackbone, images: Tensor, labels: Tensor
) -> list[dict[str, Any]]:
    """One row per quantized layer, in the order of execution: layer, segment (0: the head), precision, sqnr_db, the
    signal-to-noise ratio of the logits, accuracy_change and agreement with the float network on the images (n, …).

    A LayerNorm into which a layer's scales are folded changes with it. sqnr_db is None for a layer that disturbs nothing.
    """
    network = deepcopy(backbone)
    units = units_of(backbone)
    states = [images]
    for unit in units:
        states.append(run_unit(backbone, unit, states[-1]))
    reference = states[-1]
    right = _accuracy(reference, labels)
    rows = []
    for index, unit in enumerate(units):
        found = sources(backbone, unit, states[index][:2])
        for name in found.order:
            swapped = [name, *([found.norm[name]] if name in found.norm else [])]
            for part in swapped:
                network.set_submodule(part, quantized.get_submodule(part))
            logits = _run(network, units[index:], states[index])
            for part in swapped:
                network.set_submodule(part, backbone.get_submodule(part))
            noise = float((logits - reference).double().square().sum())
            signal = float(reference.double().square().sum())
            rows.append(
                {
                    "layer": name,
                    "segment": unit.segment,
                    "precision": str(quantized.get_submodule(name).precision),
                    "sqnr_db": float(10 * torch.log10(torch.tensor(signal / noise))) if signal > 0 < noise else None,
                    "accuracy_change": _accuracy(logits, labels) - right,
                    "agreement": _accuracy(logits, reference.argmax(dim=1)),
                }
            )
    return rows


def _run(network: SegmentedBackbone, units: list[Unit], x: Tensor) -> Tensor:
    for unit in units:
        x = run_unit(network, unit, x)
    return x


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())
