"""Position tables at another image size."""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional

from quee.errors import QueeError


def resample_positions(
    table: Tensor, grid: tuple[int, int], prefix: int, antialias: bool = False, offset: float = 0.0
) -> Tensor:
    """A table (1, prefix + rows · rows, dim) by bicubic interpolation to (1, prefix + height · width, dim).

    `offset` is added to the new size when the ratio of the sizes is taken, as DINOv2 does. Raises QueeError when the
    table is not that of a square grid.
    """
    rows = isqrt(max(table.shape[1] - prefix, 0)) if table.dim() == 3 else 0
    if rows == 0 or prefix + rows * rows != table.shape[1]:
        raise QueeError(
            f"a position table of shape {tuple(table.shape)} is not {prefix} + a square grid of tokens: "
            "weights for images of another shape fit at their own img_size=[height,width] alone"
        )
    squares = table[:, prefix:].float().unflatten(1, (rows, rows)).permute(0, 3, 1, 2)  # (1, dim, rows, rows)
    if offset:
        ratio = ((grid[0] + offset) / rows, (grid[1] + offset) / rows)
        squares = functional.interpolate(squares, scale_factor=ratio, mode="bicubic", antialias=antialias)
    else:
        squares = functional.interpolate(squares, size=grid, mode="bicubic", antialias=antialias)
    resampled = squares.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([table[:, :prefix], resampled], dim=1)
