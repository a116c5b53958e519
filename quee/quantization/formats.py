"""Number formats of products that calibration does not quantize: `MatMul`s of kind `float`, such as a performer's.

Their operands span many powers of two and differ from image to image, so they are rounded at run time. Everything is
elementwise arithmetic and products in float32 that every engine computes alike, and it is exported as it is.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from quee.errors import QueeError
from quee.network.attention import MatMul, as_it_is
from quee.precision import Precision
from quee.settings.quantize import QuantizationConfig

M = TypeVar("M", bound=nn.Module)

CUT = 2.0**16
"""With s = x · CUT + x, s − (s − x) keeps the leading 24 − 16 bits of a float32 (Dekker 1971): bf16's."""
LEVELS = 255
LEAST = 1e-30
"""Least step of levels and least size of a row; what is smaller counts as 0, whether an engine keeps such numbers or not."""
PART = 2**24 // LEVELS**2
"""Terms of a sum of 8-bit products that is exact in float32."""


class RoundedMatMul(MatMul):
    """a @ b of two activations whose operands are rounded to a number format at run time; it accumulates in float32."""

    format: str
    precision: Precision
    """Bits at which the product is counted."""

    def __init__(self, balanced: bool = False) -> None:
        super().__init__("float", balanced)

    @classmethod
    def of(cls, product: MatMul) -> "RoundedMatMul":
        """The format of a product of the float network."""
        return cls()


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

    @classmethod
    def of(cls, product: MatMul) -> RoundedMatMul:
        return BalancedInt8MatMul() if product.balanced else cls()

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
    step = ((high - low) * (1 / LEVELS)).clamp(min=LEAST)  # engines divide by constants in this way
    inverse = 1.0 / step
    lowest = torch.round(low * inverse)
    return torch.minimum(torch.maximum(torch.round(x * inverse), lowest), lowest + float(LEVELS)), step


class BalancedInt8MatMul(Int8MatMul):
    """int8 after the size of each row of b, its largest magnitude, has moved to the column of a that it meets.

    The sum is the same; the levels of a row of a are then spread over what its values contribute. Without this a value of a
    that meets a large row of b may be rounded away beside larger ones that meet nothing.
    """

    format = "int8_balanced"

    def __init__(self) -> None:
        super().__init__(balanced=True)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        with as_it_is():
            size = b.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST)  # (…, k, 1)
            return super().forward(a * size.transpose(-2, -1), b * (1.0 / size))


FORMATS: dict[str, type[RoundedMatMul]] = {kind.format: kind for kind in (Int8MatMul, Bf16MatMul)}
"""By name, the cheapest first; products in `fp32` stay as they are."""
FLOAT = "fp32"
KINDS: dict[str, type[RoundedMatMul]] = {**FORMATS, BalancedInt8MatMul.format: BalancedInt8MatMul}
"""Products by the name that they have in files."""


def float_products(model: nn.Module) -> list[str]:
    """Names of the products that calibration does not quantize."""
    return [name for name, module in model.named_modules() if isinstance(module, MatMul) and module.kind == "float"]


def round_products(model: M, name: str) -> M:
    """Give the products of a model a number format, in place: one of FORMATS, or `fp32`, which leaves them as they are."""
    if name != FLOAT:
        for product in float_products(model):
            module = model.get_submodule(product)
            assert isinstance(module, MatMul)
            model.set_submodule(product, FORMATS[name].of(module))
    return model


def format_of(config: QuantizationConfig) -> str:
    """The format that a config names; raises QueeError where it is still to be measured."""
    if config.float_products == "auto":
        raise QueeError("float_products: auto is decided by measurement; `format_choice.with_formats` does it")
    return config.float_products
