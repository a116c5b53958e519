"""Callers' images to a backbone's input; messages name inputs that are not images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from quee.data.decode import _converted, decode, to_array
from quee.data.preprocessing import Preprocessing, unit
from quee.errors import DamagedError, QueeError, UsageError
from quee.runtime.pixels import BATCH, SINGLE, accepted, check_choice, check_size

Images = np.ndarray | Sequence[Any]
"""An array (n, h, w) or (n, h, w, c) with 1, 3 or 4 channels, or a list of arrays without the axis n, PIL images, file
paths or encoded bytes. Arrays are uint8, or floats from 0 to 1 with `pixels="unit"`, see `quee.runtime.pixels`."""


def prepare(images: Images, transform: Preprocessing, pixels: str = "uint8") -> np.ndarray:
    """Images to float32 (n, c, h, w), resized, cropped and normalised. Raises UsageError naming a bad image."""
    return transform.normalise(unit(fitted(images, transform, pixels)))


def fitted(images: Images, transform: Preprocessing, pixels: str = "uint8", first: int = 0) -> np.ndarray:
    """Images to uint8 (n, h, w, c) at the backbone's size and number of channels: resized and cropped.

    Raises UsageError naming a bad image of a list by its number, counted from `first`.
    """
    check_choice(pixels)
    if isinstance(images, str | bytes | Path | Image.Image) or not hasattr(images, "__len__"):
        raise UsageError(f"images are a {type(images).__name__}; give an array or a list, also for a single image")
    if _is_tensor(images):
        raise UsageError("images are a Tensor; give an array, as images.numpy(), with channels last")
    if not len(images):
        raise UsageError("no images given")
    if isinstance(images, np.ndarray):
        found = transform.coloured(accepted(images, "images", BATCH, pixels))
        if transform.needs_resizing(*found.shape[1:3]):
            found = np.stack([_fitted(Image.fromarray(_flat(p)), transform) for p in found])
    else:
        opened = (_opened(image, i, transform, pixels) for i, image in enumerate(images, first))
        found = np.stack([_fitted(image, transform) for image in opened])
    return transform.coloured(found)


def checked(x: Any, transform: Preprocessing) -> np.ndarray:
    """Prepared images (n, c, h, w) as finite float32; raises UsageError naming the fault."""
    valid = f"float32 (n, {transform.channels}, {transform.size[0]}, {transform.size[1]})"
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.shape[1:] != (transform.channels, *transform.size):
        kind = f"shape {x.shape} and dtype {x.dtype}" if isinstance(x, np.ndarray) else f"type {type(x).__name__}"
        raise UsageError(f"prepared images have {kind}; valid: {valid}")
    if not len(x):
        raise UsageError("no images given")
    x = np.ascontiguousarray(x)
    flat = x.reshape(-1)
    # A sum of squares is finite only where every value is, and takes a third of the time.
    if not np.isfinite(flat.dot(flat)) and not (finite := np.isfinite(x).all(axis=(1, 2, 3))).all():
        raise UsageError(f"prepared image {int(np.argmin(finite))} has values that are not finite; valid: {valid}")
    return x


def _is_tensor(images: Any) -> bool:
    """Whether a value is a PyTorch tensor, without importing PyTorch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(images).__mro__)


def _flat(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _fitted(image: Image.Image, transform: Preprocessing) -> np.ndarray:
    return to_array(transform.fit(image))


def _opened(image: Any, index: int, transform: Preprocessing, pixels: str) -> Image.Image:
    name = f"image {index}"
    if isinstance(image, np.ndarray):
        return Image.fromarray(_flat(transform.coloured(accepted(image, name, SINGLE, pixels)[None])[0]))
    try:
        if isinstance(image, Image.Image):
            check_size(image.height, image.width, name)
            _check_mode(image, name)
            return _converted(ImageOps.exif_transpose(image), "RGB" if transform.channels == 3 else "L")
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(bytes(image), transform.channels, name)
        if isinstance(image, str | Path):
            name = str(image)
            return decode(_read(Path(image)), transform.channels, name)
    except UsageError:
        raise
    except QueeError as error:
        raise UsageError(str(error)) from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow, for images not yet loaded
        raise DamagedError(f"{name}: does not decode ({' '.join(str(error).split())[:160]})") from None
    advice = "; give image.numpy(), with channels last" if _is_tensor(image) else ""
    raise UsageError(f"{name} is a {type(image).__name__}; valid: uint8 array, PIL image, file path, bytes{advice}")


def _check_mode(image: Image.Image, name: str) -> None:
    """Raises UsageError for a PIL image of more than 8 bits that is not from a file, because its range is unknown."""
    if image.mode == "F" or (image.mode.startswith("I") and image.format is None):
        raise UsageError(
            f"{name} is a PIL image of mode {image.mode}, whose white is not known; convert its values to 0–255: "
            "Image.fromarray(values.astype(np.uint8))"
        )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"no such image file: {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
