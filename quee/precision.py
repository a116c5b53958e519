"""Precisions: how a segment is executed."""

import re
from dataclasses import dataclass
from functools import total_ordering

from quee.errors import UsageError

FLOAT = "fp32"
"""The precision of the float network, to which accuracy losses refer."""
FLOATS = {FLOAT: 32, "bf16": 16, "fp16": 16}
WEIGHT_BITS = range(2, 9)
ACTIVATION_BITS = range(3, 9)


@total_ordering
@dataclass(frozen=True, init=False)
class Precision:
    """`fp32`, `bf16`, `fp16`, or `w{bits}a{bits}` with 2–8 weight and 3–8 activation bits.

    Ordered by cost: by bits per product, integers before floats of equal width.

    Examples:
        >>> Precision("w4a8").weight_bits, str(Precision("w4a8")), Precision("w4a4") < Precision("w8a8")
        (4, 'w4a8', True)
    """

    name: str
    """As given, such as `w4a8`."""
    weight_bits: int
    """32 or 16 in floating point."""
    activation_bits: int
    """32 or 16 in floating point."""

    def __init__(self, name: "str | Precision") -> None:
        text = str(name)
        match = re.fullmatch(r"w([0-9])a([0-9])", text)
        if text in FLOATS:
            weight, activation = FLOATS[text], FLOATS[text]
        elif match and int(match[1]) in WEIGHT_BITS and int(match[2]) in ACTIVATION_BITS:
            weight, activation = int(match[1]), int(match[2])
        else:
            raise UsageError(
                f"unknown precision {text!r}; valid: {', '.join(FLOATS)}, or wXaY with X in 2–8 and Y in 3–8, as w4a8"
            )
        object.__setattr__(self, "name", text)
        object.__setattr__(self, "weight_bits", weight)
        object.__setattr__(self, "activation_bits", activation)

    @property
    def is_float(self) -> bool:
        """Whether it is `fp32`, `bf16` or `fp16`."""
        return self.name in FLOATS

    @property
    def head(self) -> "Precision":
        """Precision of the exit head after a segment of this precision: w8a8, or the same floating-point precision."""
        return self if self.is_float else Precision("w8a8")

    @property
    def plain(self) -> bool:
        """Whether only plain quantize–dequantize is used, which engines execute: from 8 activation bits on."""
        return self.activation_bits >= ACTIVATION_BITS[-1]

    def _key(self) -> tuple[int, int, str]:
        return (self.weight_bits * self.activation_bits, self.weight_bits, self.name)

    def __lt__(self, other: "Precision") -> bool:
        return self._key() < other._key()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Precision({self.name!r})"
