"""Scale and zero point per channel behind a LayerNorm, folded into its affine and the next weight (RepQ-ViT)."""

import numpy as np
import torch
from torch import nn

FACTORS = np.linspace(1.0, 0.4, 16)
ROWS = 512
NARROWEST = 1e-2
"""A channel's range is taken as at least this share of the mean range."""


def channel_ranges(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Range of each channel (features,) of rows (n, features) that a uniform grid covers with least squared error."""
    x = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64)].astype(np.float32)
    middle = x.mean(axis=0)
    low, high = x.min(axis=0) - middle, x.max(axis=0) - middle
    levels = 2**bits - 1
    least, best = np.full(x.shape[1], np.inf), np.ones(x.shape[1])
    for factor in FACTORS:
        step = np.maximum((high - low) * factor / levels, 1e-12)
        start = low * factor + middle
        q = np.clip(np.rint((x - start) / step), 0, levels)
        error = np.square(q * step + start - x).sum(axis=0)
        best, least = np.where(error < least, factor, best), np.minimum(error, least)
    return low * best + middle, high * best + middle


def channel_affine(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift and ratio (features,) each, after which (x - shift) / ratio has the same range in every channel."""
    low, high = channel_ranges(rows, bits)
    width = high - low
    ratio = np.maximum(width / max(float(width.mean()), 1e-12), NARROWEST)
    return (low + high) / 2, ratio


def fold(norm: nn.LayerNorm, shift: np.ndarray, ratio: np.ndarray) -> None:
    """Make a LayerNorm give (x - shift) / ratio for what was x."""
    with torch.no_grad():
        weight, bias = norm.weight.double().cpu().numpy() / ratio, (norm.bias.double().cpu().numpy() - shift) / ratio
        norm.weight.copy_(torch.from_numpy(weight))
        norm.bias.copy_(torch.from_numpy(bias))


def unfold_weight(
    weight: np.ndarray, bias: np.ndarray, shift: np.ndarray, ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (out, in) and bias (out,) of the layer behind, for the same function of the norm's input."""
    return weight * ratio, bias + weight @ shift
