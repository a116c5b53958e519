"""Preprocessing of images for a backbone, by the backbone's configuration; an experiment may override parts of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from quee.errors import UsageError
from quee.work.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
RESIZES = ("shorter", "both")
"""What is resized to size / crop_pct: the shorter side, which keeps the shape, or both sides, which changes it."""
CROP_MODES = {"center": "shorter", "squash": "both"}
"""What is resized by timm's ways to crop."""
OFFSETS = ("round", "floor")
"""Where the crop begins if as many pixels cannot be cut off on both sides: as in torchvision, or as in transformers."""
CHANNEL_ORDERS = ("rgb", "bgr")
"""Order in which a backbone takes colours: `bgr` as OpenCV and Caffe read images."""
CHOICES = {
    "interpolation": tuple(INTERPOLATIONS), "resize": RESIZES, "crop_offset": OFFSETS, "channel_order": CHANNEL_ORDERS,
}  # fmt: skip
KEYS = ("crop_pct", "mean", "std", *CHOICES)
"""Fields that an experiment may override."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation of a backbone's images."""

    size: tuple[int, int]
    """Height and width of the backbone's input."""
    crop_pct: float = 1.0
    """Share of the resized image's side that the centre crop keeps."""
    interpolation: str = "bicubic"
    """One of `INTERPOLATIONS`."""
    mean: tuple[float, ...] = (0.5,)
    """By channel in the order that the backbone takes, for pixels from 0 to 1. A backbone that takes them from 0 to 255
    has mean 0 and deviation 1/255."""
    std: tuple[float, ...] = (0.5,)
    """Deviation, as `mean`."""
    channels: int = 1
    """1 (grey) or 3 (RGB)."""
    resize: str = "shorter"
    """One of `RESIZES`."""
    crop_offset: str = "round"
    """One of `OFFSETS`."""
    channel_order: str = "rgb"
    """One of `CHANNEL_ORDERS`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the backbone's input."""
        return (self.channels, *self.size)

    def resized(self, side: int) -> "Preprocessing":
        """The same for square images of another side."""
        return replace(self, size=(side, side))

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize the shorter side, or both sides, to size / crop_pct and crop the centre.

        An image of the final size is not changed.
        """
        height, width = self.size
        if (image.height, image.width) == (height, width) and self.crop_pct == 1:
            return image
        # torchvision's Resize and timm round the target and the longer side down, too.
        target = (floor(height / self.crop_pct), floor(width / self.crop_pct))
        if self.resize == "both":
            resized = (target[1], target[0])
        else:
            scale = max(target[0] / image.height, target[1] / image.width)
            resized = (
                max(int(image.width * scale + 1e-6), target[1]),
                max(int(image.height * scale + 1e-6), target[0]),
            )
        if resized != image.size:
            image = image.resize(resized, INTERPOLATIONS[self.interpolation])
        placed = floor if self.crop_offset == "floor" else round
        left, top = placed((image.width - width) / 2), placed((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def needs_resizing(self, height: int, width: int) -> bool:
        return (height, width) != self.size or self.crop_pct != 1

    def fit_arrays(self, pixels: np.ndarray) -> np.ndarray:
        """Small images uint8 (n, h, w, c) of one size at the backbone's size, with the channels that they have."""
        if not len(pixels) or not self.needs_resizing(*pixels.shape[1:3]):
            return pixels
        images = (Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image) for image in pixels)
        fitted = [np.asarray(self.fit(image)) for image in images]
        return np.stack([image[:, :, None] if image.ndim == 2 else image for image in fitted])

    def coloured(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, h, w, c) with the backbone's number of channels."""
        if pixels.shape[-1] == self.channels:
            return pixels
        if self.channels == 1:  # ITU-R 601, as in conversion from a file
            weighted = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
            return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]
        return np.repeat(pixels, self.channels, axis=-1)

    @property
    def channel_means(self) -> tuple[float, ...]:
        """The mean of each channel in the order of the images, which is RGB."""
        means = spread(self.mean, self.channels)
        return means[::-1] if self.channel_order == "bgr" else means

    def facts(self) -> dict[str, Any]:
        """The fields as plain values; those that bundles of earlier versions lack are left out at their default."""
        values = asdict(self)
        return {k: v for k, v in values.items() if k not in ADDED or v != getattr(Preprocessing, k)}

    def __str__(self) -> str:
        values = (f"{kind} {', '.join(f'{v:.4g}' for v in getattr(self, kind))}" for kind in ("mean", "std"))
        resized = ", both sides resized" if self.resize == "both" else ""
        turned = ", channels BGR" if self.channel_order == "bgr" else ""
        return f"{', '.join(values)}, {self.interpolation}, crop {self.crop_pct:g}{resized}{turned}"

    @overload
    def normalise(self, images: np.ndarray) -> np.ndarray: ...
    @overload
    def normalise(self, images: "Tensor") -> "Tensor": ...
    def normalise(self, images: "np.ndarray | Tensor") -> "np.ndarray | Tensor":
        """RGB or grey (n, c, h, w) in [0, 1] to the backbone's order, zero mean and unit variance over its training data."""
        if not isinstance(images, np.ndarray):
            import torch

            return torch.from_numpy(self.normalise(images.numpy()))
        mean, std = (
            np.array(spread(values, self.channels), np.float32)[:, None, None] for values in (self.mean, self.std)
        )
        found = np.subtract(images[:, ::-1] if self.channel_order == "bgr" else images, mean, order="C")
        found /= std
        return found


def unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, h, w, c) to float32 (n, c, h, w) in [0, 1]."""
    found = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    found /= 255
    return found


ADDED = ("resize", "crop_offset", "channel_order")
"""Fields that were added after bundles were first written."""


def sides(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of images that are given as one side of a square, or as both; raises UsageError for anything else."""
    both = (img_size, img_size) if isinstance(img_size, int) else img_size
    if not isinstance(both, Sequence) or len(both) != 2:
        raise UsageError(f"img_size {img_size!r}: give one side, as 224, or height and width, as [224, 160]")
    return both[0], both[1]


def spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or deviations per channel; for another number of channels, their average in each."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def resized_by(crop_mode: str) -> str:
    """What timm's way to crop resizes; raises UsageError for one that is not run here."""
    if crop_mode not in CROP_MODES:
        raise UsageError(f"crop_mode {crop_mode!r} is not run here; run are {' and '.join(CROP_MODES)}")
    return CROP_MODES[crop_mode]


def override(given: Preprocessing, changes: Mapping[str, Any]) -> Preprocessing:
    """`given` with some of the fields in `KEYS` replaced; raises UsageError for anything else."""
    for key, value in changes.items():
        if key not in KEYS:
            raise UsageError(f"preprocessing: {unknown('key', key, list(KEYS))}")
        if key in ("mean", "std") and not (_numbers(value) and len(value) == given.channels):
            raise UsageError(f"preprocessing.{key} must be {given.channels} numbers; got {value!r}")
        if key == "mean" and not all(0 <= v <= 1 for v in value):  # NaN is not
            raise UsageError(f"preprocessing.mean must be from 0 to 1{_scaled(value)}; got {value!r}")
        if key == "std" and not all(0 < v <= 1 for v in value):
            raise UsageError(f"preprocessing.std must be above 0 and at most 1{_scaled(value)}; got {value!r}")
        if key in CHOICES and value not in CHOICES[key]:
            raise UsageError(f"preprocessing.{unknown(key, str(value), list(CHOICES[key]))}")
        if (key, value) == ("channel_order", "bgr") and given.channels != 3:
            raise UsageError(f"preprocessing.channel_order: 'bgr'; the backbone takes {given.channels} channel, not 3")
        if key == "crop_pct" and not (_numbers([value]) and 0 < value <= 1):
            raise UsageError(f"preprocessing.crop_pct must be above 0 and at most 1; got {value!r}")
    return replace(given, **{key: _kept(value) for key, value in changes.items()})


def _kept(value: Any) -> Any:
    """A value in the form of the dataclass: numbers as floats, lists as tuples."""
    if isinstance(value, str):
        return value
    return tuple(map(float, value)) if isinstance(value, Sequence) else float(value)


def _scaled(values: Sequence[float]) -> str:
    """Advice for values that are meant for pixels from 0 to 255, as in some frameworks."""
    return ", as pixels are here: divide by 255" if all(1 < abs(v) <= 255 for v in values) else ""


def _numbers(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
