"""Mixed precision within a segment: sensitive layers get more bits, at the BitFLOPs of uniform bits.

The error of each layer is measured alone, once with few weight bits and once with few activation bits. A further bit
divides the error's power by four, the law of a uniform quantizer, and errors of layers add up. So each segment is a
multiple-choice knapsack problem: choose the bits of its layers with the least sum of errors within the BitFLOPs of the
uniform segment.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quee.cost import Product, bitflops, trace_cost
from quee.errors import QueeError
from quee.evenly import evenly
from quee.network import HEAD
from quee.network.base import SegmentedBackbone
from quee.precision import ACTIVATION_BITS, WEIGHT_BITS, Precision
from quee.quantization.calibration import checked, quantize_
from quee.quantization.folding import folded
from quee.quantization.format_choice import with_formats
from quee.quantization.layers import quantizable, resolved
from quee.quantization.units import Unit, run_unit, sources, units_of
from quee.settings.quantize import QuantizationConfig

PROBES = {"weight": Precision("w3a7"), "activation": Precision("w7a4")}
"""Precisions at which errors are measured: weights at 3 bits, activations at 4."""
SAMPLES = 64
"""Number of calibration samples that errors are measured on."""
GAP = 1e-3
"""Relative distance from the least sum of errors at which a search may end."""


def with_mixed_bits(
    backbone: SegmentedBackbone, configs: Sequence[QuantizationConfig], calibration_batches: Iterable[Tensor]
) -> list[QuantizationConfig]:
    """The configs with bits per layer, within the BitFLOPs that each segment has at uniform bits.

    Stem, head and layers that already have a precision of their own keep it, and the budget does not include them.
    Configs of 8 activation bits, which engines execute, are not changed. Raises QueeError as `quantize_` does.
    """
    few = [config for config in configs if not config.precision.plain]
    if not few:
        return list(configs)
    images = checked(calibration_batches, max(config.samples for config in few), backbone)
    configs = with_formats(backbone, configs, images)
    few = [config for config in configs if not config.precision.plain]
    noise = layer_noise(backbone, few[0], images[evenly(len(images), SAMPLES)])
    products = trace_cost(backbone).products
    return [config if config.precision.plain else _mixed(backbone, products, config, noise) for config in configs]


def layer_noise(
    backbone: SegmentedBackbone, config: QuantizationConfig, images: Tensor
) -> dict[str, tuple[float, float]]:
    """Noise power of the logits relative to the signal's when one layer alone is quantized: by layer, at the bits of PROBES.

    `images` (n, c, h, w) both calibrate and measure. Layers are calibrated as `config` says, in closed form.
    """
    rounding = "compensated" if config.rounding == "learned" else config.rounding
    plain = config.model_copy(update={"layers": {}, "rounding": rounding})
    with torch.inference_mode():
        labels = torch.cat([backbone(part) for part in images.split(SAMPLES)]).argmax(dim=1)
    found: dict[str, dict[str, float]] = {}
    for kind, precision in PROBES.items():
        probe = quantize_(deepcopy(backbone), plain.model_copy(update={"precision": precision}), [images])
        for row in sensitivity(backbone, probe, images, labels):  # type: ignore[arg-type]
            quiet = row["sqnr_db"] is None  # the layer does not change the logits
            found.setdefault(row["layer"], {})[kind] = 0.0 if quiet else 10 ** (-row["sqnr_db"] / 10)
    return {name: (each["weight"], each["activation"]) for name, each in found.items()}


def _mixed(
    backbone: SegmentedBackbone,
    products: Sequence[Product],
    config: QuantizationConfig,
    noise: dict[str, tuple[float, float]],
) -> QuantizationConfig:
    fixed = resolved(quantizable(backbone), config.layers)
    chosen = dict(fixed)
    for segment in sorted({p.segment for p in products} - {HEAD}):
        free = [
            p for p in products
            if p.segment == segment and p.kind != "float" and p.name not in fixed
            and not (p.part == "stem" and config.stem)
        ]  # fmt: skip
        choices = [_choices(product) for product in free]
        errors = [[_predicted(noise[p.name], p, c) for c in own] for p, own in zip(free, choices, strict=True)]
        costs = [[bitflops(p.macs, p.bits(c)) for c in own] for p, own in zip(free, choices, strict=True)]
        budget = sum(bitflops(p.macs, p.bits(config.precision)) for p in free)
        for product, own, index in zip(free, choices, least_error(errors, costs, budget), strict=True):
            if own[index] != config.precision:
                chosen[product.name] = own[index]
    return config.model_copy(update={"layers": dict(sorted(chosen.items()))})


def _choices(product: Product) -> list[Precision]:
    """Precisions for a layer: those with fewer than 8 activation bits, which use the grids of low precisions."""
    few = ACTIVATION_BITS[:-1]
    if product.kind == "attention":
        return [Precision(f"w{bits}a{bits}") for bits in few]
    return [Precision(f"w{weight}a{activation}") for weight in WEIGHT_BITS for activation in few]


def _predicted(noise: tuple[float, float], product: Product, precision: Precision) -> float:
    of_weights, of_activations = noise
    fewer = PROBES["activation"].activation_bits - precision.activation_bits
    predicted = of_activations * 4.0**fewer
    if product.kind == "weight":
        predicted += of_weights * 4.0 ** (PROBES["weight"].weight_bits - precision.weight_bits)
    return predicted


def least_error(errors: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float) -> list[int]:
    """One choice per row with the least sum of errors (within GAP) and a sum of costs of at most `budget`.

    Raises QueeError where even the cheapest choices cost more.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not errors:
        return []
    if budget <= 0 or sum(map(min, costs)) > budget:
        raise QueeError(f"a budget of {budget:g} BitFLOPs; the cheapest choices need {sum(map(min, costs)):g}")
    sizes = [len(row) for row in errors]
    objective = np.concatenate([np.asarray(row, dtype=np.float64) for row in errors])
    one_each = np.repeat(np.eye(len(sizes)), sizes, axis=1)
    price = np.concatenate([np.asarray(row, dtype=np.float64) for row in costs]) / budget
    solved = milp(
        objective / max(float(objective.max()), 1e-300),
        integrality=np.ones(len(objective)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(price[None], 0, 1 + 1e-12)],
        options={"mip_rel_gap": GAP},
    )
    if solved.x is None:
        raise QueeError(f"no bits within {budget:g} BitFLOPs were found: {solved.message}")
    ends = np.cumsum(sizes)
    return [int(part.argmax()) for part in np.split(solved.x, ends[:-1])]


def sensitivity(
    backbone: SegmentedBackbone, quantized: SegmentedBackbone, images: Tensor, labels: Tensor
) -> list[dict[str, Any]]:
    """One row per quantized layer, in the order of execution: layer, segment (0: the head), precision, sqnr_db, the
    signal-to-noise ratio of the logits, accuracy_change and agreement with the float network on the images (n, …).

    A LayerNorm that holds folded scales of a layer changes with it. sqnr_db is None for a layer that changes no logit.
    """
    backbone = folded(backbone)
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
