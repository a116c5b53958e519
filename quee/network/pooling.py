"""Pooling of a state: how the positions of a map or the tokens of a sequence become one row per sample.

A pooling joins parts by `_`: `cls`, the class token; `mean` and `max` over all positions; `mean4x4` and `max4x4` over
the cells of a grid of 4 rows and 4 columns. A grid divides the positions like PyTorch's adaptive pooling: cell i of k
covers positions ⌊i·size/k⌋ to ⌈(i+1)·size/k⌉, so any grid goes with any size.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quee.errors import UsageError

_FORM = re.compile(r"(cls)|(mean|max)(?:([1-9]\d?)x([1-9]\d?))?")
VALID = "parts joined by _, each of them cls, mean, max, or mean or max of a grid such as mean4x4"


@dataclass(frozen=True)
class Part:
    """One part of a pooling."""

    kind: str
    """`cls`, `mean` or `max`."""
    rows: int = 1
    columns: int = 1

    @property
    def cells(self) -> int:
        """Number of vectors."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return self.kind if self.cells == 1 else f"{self.kind}{self.rows}x{self.columns}"


def parts_of(pooling: str) -> tuple[Part, ...]:
    """The parts of a pooling by its name; raises UsageError where the name is not one or names a part twice."""
    found = [_FORM.fullmatch(name) for name in pooling.split("_")]
    if None in found:
        raise UsageError(f"unknown pooling {pooling!r}; valid: {VALID}")
    parts = tuple(Part(m[1] or m[2], int(m[3] or 1), int(m[4] or 1)) for m in found if m is not None)
    if len(set(parts)) < len(parts):
        raise UsageError(f"pooling {pooling!r} names a part twice; valid: {VALID}")
    return parts


def mean(positions: Tensor) -> Tensor:
    """The mean (n, width) over positions (n, positions, width).

    It is computed in double precision, so that it does not depend on how the batch is split.
    """
    return positions.double().mean(dim=1).to(positions.dtype)


def over_cells(positions: Tensor, part: Part) -> Tensor:
    """Positions (n, width, height, length) as (n, cells, width): the mean or the largest value of each cell."""
    if part.kind == "max":
        found = _along(_along(positions, part.rows, 2, torch.amax), part.columns, 3, torch.amax)
    else:  # the mean of a rectangle is the mean of its rows' means
        found = _along(_along(positions.double(), part.rows, 2, torch.mean), part.columns, 3, torch.mean)
    return found.to(positions.dtype).flatten(2).transpose(1, 2)


def _along(x: Tensor, cells: int, axis: int, reduce: Callable[..., Tensor]) -> Tensor:
    """x with one axis reduced to `cells` values."""
    size = x.shape[axis]
    if cells == 1:
        return reduce(x, dim=axis, keepdim=True)
    if size == cells:
        return x
    ends = ((i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells))
    return torch.cat([reduce(x.narrow(axis, a, b - a), dim=axis, keepdim=True) for a, b in ends], dim=axis)
