"""Number formats of products that calibration does not quantize: `MatMul`s of kind `float`, such as a performer's.

Their operands span many powers of two and differ from image to image, so they are rounded at run time. Everything is
elementwise arithmetic and products in float32 that every engine computes alike, and it is exported as it is.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import QueeError
from quee.network.attention import MatMul, as_it_is
from quee.network.execution import padded
from quee.precision import Precision
from quee.settings.quantize import QuantizationConfig

M = TypeVar("M", bound=nn.Module)

CUT = 2.0**16
"""With s = x · CUT + x, s − (s − x) keeps the leading 24 − 16 bits of a float32 (Dekker 1971): bf16's."""
LEVELS = 255
PART = 2**24 // LEVELS**2
"""Terms of a sum of 8-bit products that is exact in float32."""


class RoundedMatMul(MatMul):
    """a @ b of two activations whose operands are rounded to a number format at run time; it accumulates in float32."""

    format: str
    precision: Precision
    """Bits at which the product is counted."""

    def __init__(self) -> None:
        super().__init__("float")


class Bf16MatMul(RoundedMatMul):
    """Operands rounded to bf16, half to even; a product of two of them is exact in float32.

    A cast to bf16 and back would be the same, but OpenVINO cuts digits off instead of rounding. Magnitudes must be below
    2^111.
    """

    format = "bf16"
    precision = Precision("bf16")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        with as_it_is():
            return _leading(a) @ _leading(b)


def _leading(x: Tensor) -> Tensor:
    # A product by a power of two is exact, so that an engine may join it with a factor before it.
    scaled = x * CUT + x
    return scaled - (scaled - x)


class Int8MatMul(RoundedMatMul):
    """Operands on 256 even levels between the least and the largest value, or zero: of each row of a, of each column of b.

    A scale of a row or a column is a factor of the sum, so the products are integer products. Long sums are added in
    parts that are exact, in one order.
    """

    format = "int8"
    precision = Precision("w8a8")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        with as_it_is():
            rows, row_steps = _integers(a, -1)  # (…, m, k), (…, m, 1)
            columns, column_steps = _integers(b, -2)  # (…, k, n), (…, 1, n)
            width = a.shape[-1]
            total = rows[..., :PART] @ columns[..., :PART, :]
            for start in range(PART, width, PART):
                total = total + rows[..., start : start + PART] @ columns[..., start : start + PART, :]
            return total * row_steps * column_steps


def _integers(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Integers as float32 of x's shape, and the steps by which they are multiplied, of length 1 along `axis`."""
    low, high = x.amin(dim=axis, keepdim=True).clamp(max=0.0), x.amax(dim=axis, keepdim=True).clamp(min=0.0)
    step = ((high - low) * (1 / LEVELS)).clamp(min=1e-30)  # engines divide by constants in this way
    inverse = 1.0 / step
    lowest = torch.round(low * inverse)
    return torch.minimum(torch.maximum(torch.round(x * inverse), lowest), lowest + float(LEVELS)), step


FORMATS: dict[str, type[RoundedMatMul]] = {kind.format: kind for kind in (Int8MatMul, Bf16MatMul)}
"""By name, the cheapest first; products in `fp32` stay as they are."""
FLOAT = "fp32"


def float_products(model: nn.Module) -> list[str]:
    """Names of the products that calibration does not quantize."""
    return [name for name, module in model.named_modules() if isinstance(module, MatMul) and module.kind == "float"]


def round_products(model: M, name: str) -> M:
    """Give the products of a model a number format, in place: one of FORMATS, or `fp32`, which leaves them as they are."""
    if name != FLOAT:
        for product in float_products(model):
            model.set_submodule(product, FORMATS[name]())
    return model


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


def format_of(config: QuantizationConfig) -> str:
    """The format that a config names; raises QueeError where it is still to be measured."""
    if config.float_products == "auto":
        raise QueeError("float_products: auto is decided by measurement; `with_formats` does it")
    return config.float_products
