"""Images as callers have them to a backbone's input; what is no image is refused by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from quee.data.decode import MAX_PIXELS, _converted, decode, to_array
from quee.data.transforms import Preprocessing, to_unit
from quee.errors import QueeError, UsageError

Images = np.ndarray | Sequence[Any]
"""uint8 (n, h, w) or (n, h, w, c) with 1, 3 or 4 channels, or a list of such arrays without n, PIL images, file paths
or encoded bytes."""


def prepare(images: Images, transform: Preprocessing) -> np.ndarray:
    """Images to float32 (n, c, h, w), resized, cropped and normalised. Raises UsageError naming a bad one."""
    if isinstance(images, str | bytes | Path | Image.Image) or not hasattr(images, "__len__"):
        raise UsageError(f"images are a {type(images).__name__}; give an array or a list, also for a single image")
    if not len(images):
        raise UsageError("no images given")
    if isinstance(images, np.ndarray):
        pixels = _pixels(images, "images", ("n", "h", "w"))
        if transform.needs_resizing(*pixels.shape[1:3]):
            pixels = np.stack([_fitted(Image.fromarray(_flat(p)), transform) for p in transform.coloured(pixels)])
    else:
        pixels = np.stack([_fitted(_opened(image, i, transform), transform) for i, image in enumerate(images)])
    return np.asarray(transform.normalise(to_unit(transform.coloured(pixels))).numpy())


def checked(x: Any, transform: Preprocessing) -> np.ndarray:
    """Prepared images (n, c, h, w), as float32 and finite; raises UsageError naming what does not fit."""
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


def _pixels(array: np.ndarray, name: str, axes: tuple[str, ...]) -> np.ndarray:
    """uint8 (…, h, w, c) with 1 or 3 channels."""
    valid = f"uint8 ({', '.join(axes)}) or ({', '.join(axes)}, c) with 1, 3 or 4 channels"
    kind = f"shape {array.shape} and dtype {array.dtype}"
    if array.dtype.kind == "f" and np.isnan(array).any():
        kind += " with NaN"
    if array.dtype != np.uint8 or array.ndim - len(axes) not in (0, 1):
        raise UsageError(f"{name} have {kind}; valid: {valid}")
    if array.ndim == len(axes):
        array = array[..., None]
    if array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise UsageError(f"{name} have {kind}; valid: {valid}")
    _within(array.shape[-2], array.shape[-3], name)
    return array[..., :3] if array.shape[-1] == 4 else array


def _within(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UsageError(f"{name}: {width}×{height} pixels; at most {MAX_PIXELS:,} are taken")


def _flat(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _fitted(image: Image.Image, transform: Preprocessing) -> np.ndarray:
    return to_array(transform.fit(image))


def _opened(image: Any, index: int, transform: Preprocessing) -> Image.Image:
    name = f"image {index}"
    if isinstance(image, np.ndarray):
        pixels = _pixels(image, name, ("h", "w"))
        return Image.fromarray(_flat(transform.coloured(pixels[None])[0]))
    try:
        if isinstance(image, Image.Image):
            _within(*image.size, name)
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
    except (OSError, ValueError, SyntaxError) as error:  # Pillow, of images opened and not yet loaded
        raise UsageError(f"{name}: does not decode ({' '.join(str(error).split())[:160]})") from None
    raise UsageError(f"{name} is a {type(image).__name__}; valid: uint8 array, PIL image, file path, bytes")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"no such image file: {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
