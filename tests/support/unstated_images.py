"""Images whose classes differ in what preprocessing can spoil, and small networks trained on them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from quee.data.decode import to_array
from quee.data.preprocessing import Preprocessing, override
from quee.data.transforms import to_unit
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone

SIZE = 12
"""Height and width of the network's input."""
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def brightness(label: int, random: np.random.Generator) -> np.ndarray:
    """Six levels of grey: wrong means and deviations make another level of them."""
    return np.full((SIZE, SIZE, 3), 50 + 30 * label) + random.normal(0, 15, (SIZE, SIZE, 3))


def colour(label: int, random: np.random.Generator) -> np.ndarray:
    """The six orders of strength of red, green and blue: another order of channels makes another class of them."""
    return np.array([60, 120, 180])[list(ORDERS[label])] + random.normal(0, 20, (SIZE, SIZE, 3))


def size(label: int, random: np.random.Generator) -> np.ndarray:
    """Discs of six radii: another crop enlarges them."""
    y, x = np.mgrid[:36, :36] - 17.5
    disc = np.hypot(y, x) < 5 * 1.18**label
    return np.where(disc, 180, 70)[..., None] + random.normal(0, 10, (36, 36, 3))


def shape(label: int, random: np.random.Generator) -> np.ndarray:
    """Discs of six radii in wide images: resizing both sides narrows them, and shows their surroundings."""
    y, x = np.mgrid[:24, :48] - np.array([11.5, 23.5])[:, None, None]
    disc = np.hypot(y, x) < 3 * 1.2**label
    return np.where(disc, 180, 70)[..., None] + random.normal(0, 10, (24, 48, 3))


def texture(label: int, random: np.random.Generator) -> np.ndarray:
    """Noise of six strengths from pixel to pixel: another interpolation smooths it more or less."""
    return 128 + random.normal(0, 12 * 1.3**label, (2 * SIZE, 2 * SIZE, 3))


class Patterns:
    """Labelled images of one kind."""

    classes = tuple("abcdef")

    def __init__(self, kind: Any, count: int, seed: int) -> None:
        self.labels = np.arange(count) % len(self.classes)
        drawn = (kind(label, np.random.default_rng([seed, i])) for i, label in enumerate(self.labels))
        self.images = [Image.fromarray(pixels.clip(0, 255).astype(np.uint8)) for pixels in drawn]

    def pixels(self, first: int, last: int, transform: Preprocessing) -> np.ndarray:
        return np.stack([to_array(transform.fit(image)) for image in self.images[first:last]])


def trained(kind: Any, preprocessing: Mapping[str, Any], steps: int = 40) -> SegmentedBackbone:
    """A small network that was trained on images of a kind as `preprocessing` prepares them; it does not say so."""
    torch.manual_seed(0)
    backbone = create_backbone("resnet20_cifar", num_classes=6, depth=3, img_size=SIZE)
    transform, patterns = override(backbone.input, preprocessing), Patterns(kind, 360, seed=1)
    x = transform.normalise(to_unit(patterns.pixels(0, 360, transform)))
    y = torch.from_numpy(patterns.labels)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    backbone.train()
    for _ in range(steps):
        rows = torch.randint(0, 360, (60,))
        optimizer.zero_grad()
        functional.cross_entropy(backbone(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return backbone.eval()
