"""Accepted pixels at every entry point: 8 bits from 0 to 255, or floats from 0 to 1 if the caller says so.

No type is guessed. An array of another type, range or order of axes is refused; the message gives the conversion.
"""

from typing import Any, Literal, get_args

import numpy as np

from quee.data.decode import MAX_PIXELS
from quee.errors import UsageError
from quee.work.registry import unknown

Pixels = Literal["uint8", "unit"]
PIXELS: tuple[str, ...] = get_args(Pixels)
"""Types of arrays: `uint8` from 0 to 255, or `unit`, floats from 0 to 1, which are rounded to the nearest 255th."""
BATCH, SINGLE = ("n", "h", "w"), ("h", "w")
"""Axes of several images and of one image; the channel axis follows or is absent."""
CHANNELS = (1, 3, 4)
_UNIT = 'pixels="unit"'
_WHOLE = "whole numbers from 0 to 255"


def check_choice(pixels: Any) -> None:
    """Raises UsageError for a value that is not among PIXELS."""
    if pixels not in PIXELS:
        raise UsageError(unknown("pixels", str(pixels), list(PIXELS)))


def accepted(array: np.ndarray, name: str, axes: tuple[str, ...] = BATCH, pixels: str = "uint8") -> np.ndarray:
    """The array as uint8 (…, h, w, c) with 1 or 3 channels; errors call the array `name`.

    A fourth channel is accepted where it is opaque everywhere, 255 or 1.0. Raises UsageError with the conversion to use.
    """
    check_form(array, name, axes, pixels)
    if array.dtype.kind == "f":
        array = _from_unit(array, name)
    if array.ndim == len(axes):
        array = array[..., None]
    if array.shape[-1] == 4:
        if (array[..., 3] != 255).any():
            raise UsageError(
                f"{name} have a fourth channel that is not opaque everywhere; blend them onto a background first, or give "
                "images[..., :3] for the colours without it"
            )
        array = array[..., :3]
    return array


def check_form(array: np.ndarray, name: str, axes: tuple[str, ...] = BATCH, pixels: str = "uint8") -> None:
    """Raises UsageError for a shape or type that is not accepted; reads values only for its advice."""
    check_choice(pixels)
    fault = _shape_fault(array.shape, axes) or _type_fault(array, pixels)
    if fault is not None:
        taken = f"({', '.join(axes)}) or ({', '.join(axes)}, c) with 1, 3 or 4 channels"
        missing = " with NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        found = f"{name} have shape {array.shape} and dtype {array.dtype}{missing}"
        raise UsageError(f"{found}; valid: uint8 {taken}, or floats from 0 to 1 with {_UNIT}; {fault}")
    check_size(array.shape[len(axes) - 2], array.shape[len(axes) - 1], name)


def check_size(height: int, width: int, name: str) -> None:
    """Raises UsageError for an image of too many pixels."""
    if width * height > MAX_PIXELS:
        raise UsageError(f"{name}: {width}×{height} pixels; at most {MAX_PIXELS:,} are taken")


def numbers(data: Any, name: str, pixels: str = "uint8") -> np.ndarray:
    """Pixels from JSON, as nested lists or an array of objects, as an array that `accepted` takes.

    JSON has no uint8: whole numbers from 0 to 255 count as uint8, and floats such as 255.0 do not. With `unit` any number
    is accepted, because 1.0 is often written 1. Raises UsageError.
    """
    check_choice(pixels)
    try:
        array = np.array(data, dtype=object)
    except ValueError:
        array = np.array([None, [None]], dtype=object)  # lists of unequal length, some forms of which NumPy refuses
    flat = array.ravel().tolist()
    kinds = set(map(type, flat))
    wanted = f"numbers from 0 to 1 with {_UNIT}" if pixels == "unit" else _WHOLE
    if list in kinds:
        raise UsageError(f"{name}: lists of unequal length; give images of one size, of {wanted}")
    if strange := kinds - {int, float}:
        kind = min(kind.__name__ for kind in strange)
        raise UsageError(f"{name}: {kind} among the numbers; give {wanted}")
    if pixels == "unit":
        low, high = (min(flat), max(flat)) if flat else (0, 0)
        if not 0 <= low <= high <= 1:
            raise UsageError(f"{name}: numbers {_span(low, high)}; {_UNIT} takes those from 0 to 1")
        return array.astype(np.float64)
    if float in kinds:
        advice = "some are too large" if _huge(flat) else _advice_for_floats(array.astype(np.float64))
        raise UsageError(f"{name}: floats; give {_WHOLE}; {advice}")
    if flat and not 0 <= min(flat) <= max(flat) <= 255:
        raise UsageError(f"{name}: {_span(min(flat), max(flat))}; give {_WHOLE}")
    return array.astype(np.uint8)


def _from_unit(array: np.ndarray, name: str) -> np.ndarray:
    low, high = array.min(), array.max()
    if not 0 <= low <= high <= 1:  # NaN is not
        raise UsageError(
            f"{name} hold values {_span(low, high)}; {_UNIT} takes floats from 0 to 1; {_advice_for_floats(array)}"
        )
    return np.rint(array.astype(np.float32, copy=False) * np.float32(255)).astype(np.uint8)


def _shape_fault(shape: tuple[int, ...], axes: tuple[str, ...]) -> str | None:
    """The fault of a shape, with advice; None where the shape is accepted."""
    n, many = len(axes), "n" in axes
    if 0 in shape:
        return "they have no pixels"
    if len(shape) == n - 1 and many:
        return "for one image give images[None]"
    if len(shape) not in (n, n + 1):
        return f"they have {len(shape)} axes"
    if len(shape) == n and many and shape[-1] in CHANNELS and shape[1] >= 2 * shape[-1] and shape[0] > 1:
        return "that is one image with its channels, by the look of it: give images[None]; or they are too narrow"
    if len(shape) == n or shape[-1] in CHANNELS:
        return None
    if shape[n - 2] in CHANNELS:
        axis = "images.transpose(0, 2, 3, 1)" if many else "image.transpose(1, 2, 0)"
        return f"channels come last: give {axis}"
    return f"{shape[-1]} channels"


def _type_fault(array: np.ndarray, pixels: str) -> str | None:
    """The fault of an array's type, with the conversion to use; None where the type is accepted."""
    if isinstance(array, np.ma.MaskedArray):
        return "what is masked has no value: give images.filled(0) or the like"
    kind, unit = array.dtype.kind, pixels == "unit"
    if array.dtype == np.uint8:
        return f"{_UNIT} is for floats: leave it out for uint8" if unit else None
    if kind == "f":
        return None if unit else _advice_for_floats(array)
    if kind == "b":
        return "convert: images.astype(np.uint8) * 255"
    if kind in "iu":
        return _advice_for_integers(int(array.min()), int(array.max()))
    return "give a list where sizes differ" if kind == "O" else "give numbers"


def _advice_for_floats(array: np.ndarray) -> str:
    if not np.isfinite(array).all():
        return "some are not finite: look at where they come from"
    low, high = array.min(), array.max()
    if 0 <= low <= high <= 1:
        return f"give {_UNIT}, or convert: np.rint(images * 255).astype(np.uint8)"
    if 0 <= low <= high <= 255:
        return f"values {_span(low, high)}: convert: np.rint(images).astype(np.uint8)"
    if low < 0 and high <= 16:
        return f"values {_span(low, high)}: give images as they are before normalisation, which is done here"
    return f"values {_span(low, high)}: bring them to 0–255, as uint8"


def _advice_for_integers(low: int, high: int) -> str:
    if 0 <= low <= high <= 255:
        return "convert: images.astype(np.uint8)"
    if 0 <= low <= high < 1 << 16:
        return f"values {_span(low, high)}: convert 16 bits by (images // 257).astype(np.uint8), where 65535 is white"
    return f"values {_span(low, high)}: bring them to 0–255, as uint8"


def _span(low: Any, high: Any) -> str:
    return f"from {_short(low)} to {_short(high)}"


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= 24 else f"{text[:20]}… ({len(text)} digits)"


def _huge(values: list[Any]) -> bool:
    """Whether a whole number among the values is too large for a float."""
    return any(isinstance(value, int) and abs(value) >= 1 << 1023 for value in values)
