"""Choice of the number format of products that calibration does not quantize, by what it does to the network's answers."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quee.network.execution import padded
from quee.quantization.formats import FLOAT, FORMATS, float_products, round_products
from quee.settings.quantize import QuantizationConfig

LIMIT = 0.001
"""A format is refused where it changes clearly more than this share of the float network's answers."""
LEVEL = 0.95
SAMPLES = 2048
"""Most images that formats are compared on."""


def answers(network: nn.Module, images: Tensor) -> np.ndarray:
    """Classes (n,) that a network gives images (n, c, h, w)."""
    with torch.inference_mode():
        return padded(network, images).argmax(dim=1).cpu().numpy()


def chosen(found: Mapping[str, np.ndarray]) -> tuple[str, list[dict[str, Any]]]:
    """The format to use, and a row for each: format, samples, changed, and the interval [low, high] of the changed share.

    `found` are answers (n,) by format, those of `fp32` among them. The cheapest format is used that does not clearly
    change more than LIMIT of the answers, by the exact binomial (Clopper–Pearson) interval.
    """
    rows: list[dict[str, Any]] = []
    for name in FORMATS:
        count, changed = len(found[FLOAT]), int((found[name] != found[FLOAT]).sum())
        low, high = changed_share(changed, count)
        rows.append({"format": name, "samples": count, "changed": changed, "low": low, "high": high})
    return next((row["format"] for row in rows if row["low"] <= LIMIT), FLOAT), rows


def changed_share(changed: int, samples: int) -> tuple[float, float]:
    """Clopper–Pearson interval of a share, of level LEVEL."""
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, changed, samples - changed + 1)) if changed else 0.0
    high = float(beta.ppf(1 - tail, changed + 1, samples - changed)) if changed < samples else 1.0
    return low, high


def with_formats(
    backbone: nn.Module, configs: Sequence[QuantizationConfig], images: Tensor
) -> list[QuantizationConfig]:
    """The configs with a format in place of `auto`, by what it does to the answers on images (n, c, h, w).

    Configs of networks without such products stay as they are.
    """
    if not float_products(backbone) or all(config.float_products != "auto" for config in configs):
        return list(configs)
    networks = {name: round_products(deepcopy(backbone), name) for name in (FLOAT, *FORMATS)}
    name, _ = chosen({name: answers(network, images[:SAMPLES]) for name, network in networks.items()})
    return [with_format(config, name) for config in configs]


def with_format(config: QuantizationConfig, name: str) -> QuantizationConfig:
    """The config with a format in place of `auto`."""
    return config.model_copy(update={"float_products": name}) if config.float_products == "auto" else config
