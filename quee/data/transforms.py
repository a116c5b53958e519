"""Augmentation of batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quee.data.preprocessing import Preprocessing, unit
from quee.settings.backbone import Augmentation
from quee.work.bits import splitmix64

DRAWS = 14
"""Number of uniform random numbers that the augmentation of one image uses."""


def to_unit(pixels: np.ndarray) -> Tensor:
    """uint8 (n, h, w, c) to float32 (n, c, h, w) in [0, 1]."""
    return torch.from_numpy(unit(pixels))


def draws(seed: Sequence[int], ids: np.ndarray, count: int = DRAWS) -> np.ndarray:
    """Uniform numbers (n, count) in [0, 1); each row depends only on the seed and the sample's own id."""
    key = np.random.default_rng(list(seed)).integers(0, 2**63, dtype=np.uint64)
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    with np.errstate(over="ignore"):
        z = splitmix64(ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key)[:, None] + steps
        return np.asarray((splitmix64(z) >> np.uint64(11)) * 2.0**-53)


def ready(
    pixels: np.ndarray,
    ids: np.ndarray,
    transform: Preprocessing,
    augmentation: Augmentation | None = None,
    seed: Sequence[int] = (),
) -> Tensor:
    """Pixels uint8 (n, H, W, c) of the samples `ids` (n,), at the backbone's size, as its input: augmented and normalised.

    What is drawn for a sample depends on the seed and its id alone.
    """
    images = to_unit(pixels)
    if augmentation is not None:
        images = augment(images, augmentation, draws(seed, ids), transform.channel_means)
    return transform.normalise(images)


def augment(images: Tensor, settings: Augmentation, u: np.ndarray, fill: Sequence[float]) -> Tensor:
    """Random changes to images (n, c, h, w) in [0, 1], by uniform numbers u (n, DRAWS).

    Areas that move in from outside are black. `fill` (c) is the colour of erased rectangles. Training adds mixup and CutMix.
    """
    if settings.rotate or settings.scale:
        images = _affine(images, settings, u)
    elif settings.flip or settings.crop_padding:
        images = _moved(images, settings, u)
    if settings.colour:
        images = _coloured(images, settings.colour, u)
    if settings.erase:
        images = _erased(images, settings, u, fill)
    return images


def _moved(images: Tensor, settings: Augmentation, u: np.ndarray) -> Tensor:
    """Flip, and shift by whole pixels, without resampling."""
    n, _, height, width = images.shape
    pad = settings.crop_padding
    padded = functional.pad(images, (pad, pad, pad, pad))
    shift = np.floor(u[:, 1:3] * (2 * pad + 1)).astype(np.int64)
    rows = shift[:, 0, None] + np.arange(height)
    columns = shift[:, 1, None] + np.arange(width)
    if settings.flip:
        columns = np.where(u[:, :1] < 0.5, columns[:, ::-1], columns)
    samples = torch.arange(n).view(n, 1, 1)
    from_rows, from_columns = torch.from_numpy(rows)[:, :, None], torch.from_numpy(columns)[:, None, :]
    moved = padded.permute(0, 2, 3, 1)[samples, from_rows, from_columns]  # (n, h, w, c)
    return moved.permute(0, 3, 1, 2).contiguous()


def _affine(images: Tensor, settings: Augmentation, u: np.ndarray) -> Tensor:
    """Flip, shift, rotation and zoom in one bilinear resampling."""
    n, _, height, width = images.shape
    angle = np.deg2rad(settings.rotate) * (2 * u[:, 3] - 1)
    zoom = 1 + settings.scale * (2 * u[:, 4] - 1)
    mirror = np.where(u[:, 0] < 0.5, -1.0, 1.0) if settings.flip else np.ones(n)
    shift = settings.crop_padding * (2 * u[:, 1:3] - 1)  # pixels: down, right
    y = np.arange(height) - (height - 1) / 2
    x = np.arange(width) - (width - 1) / 2
    cos, sin = (np.cos(angle) / zoom)[:, None, None], (np.sin(angle) / zoom)[:, None, None]
    across = x[None, None, :] * mirror[:, None, None]
    from_x = cos * across + sin * y[None, :, None] + shift[:, 1, None, None]
    from_y = -sin * across + cos * y[None, :, None] + shift[:, 0, None, None]
    grid = np.stack([from_x * 2 / width, from_y * 2 / height], axis=-1).astype(np.float32)
    return functional.grid_sample(images, torch.from_numpy(grid), padding_mode="zeros", align_corners=False)


def _coloured(images: Tensor, strength: float, u: np.ndarray) -> Tensor:
    """Contrast around an image's own mean, then brightness, then saturation, each times a factor; within [0, 1]."""
    factors = torch.from_numpy((1 + strength * (2 * u[:, 11:14] - 1)).astype(np.float32))[:, :, None, None, None]
    contrast, brightness, saturation = factors.unbind(1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = ((images - mean) * contrast + mean) * brightness
    grey = images.mean(dim=1, keepdim=True)
    return (grey + (images - grey) * saturation).clamp(0, 1)


def _erased(images: Tensor, settings: Augmentation, u: np.ndarray, fill: Sequence[float]) -> Tensor:
    """A rectangle of 2 % to 33 % of the area, of aspect 0.3 to 3.3, with probability `erase`."""
    _, _, height, width = images.shape
    area = (0.02 + 0.31 * u[:, 6]) * height * width
    aspect = np.exp(np.log(0.3) + u[:, 7] * np.log(3.3 / 0.3))
    tall = np.clip(np.sqrt(area * aspect), 1, height)
    wide = np.clip(np.sqrt(area / aspect), 1, width)
    top, left = u[:, 8] * (height - tall), u[:, 9] * (width - wide)
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    hit = (u[:, 5] < settings.erase)[:, None, None] & rows[:, :, None] & columns[:, None, :]
    colour = torch.tensor(list(fill), dtype=images.dtype).view(1, -1, 1, 1)
    return torch.where(torch.from_numpy(hit)[:, None], colour, images)
