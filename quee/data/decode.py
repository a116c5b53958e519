"""Image bytes to pixels: JPEG, PNG and WebP only, and never more pixels than allowed."""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from quee.errors import DamagedError, QueeError, one_line
from quee.work.progress import progress

if TYPE_CHECKING:
    from quee.data.files import DatasetFiles

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
"""Limit on height × width; the size is read from the header before anything is decoded."""


def open_image(data: bytes, name: str) -> Image.Image:
    """Open an image and read only its header; raises DamagedError naming what is no image, QueeError one of too many pixels."""
    try:
        image = _opened(data)
    except Exception as error:  # damaged files raise many types
        raise DamagedError(f"{name}: not a readable {', '.join(FORMATS)} image ({_line(error, data)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise QueeError(f"{name}: {width}×{height} pixels; at most {MAX_PIXELS:,} are decoded")
    return image


def _opened(data: bytes) -> Image.Image:
    """`Image.open` without Pillow's limit of pixels, which is set per process and only warns up to twice the limit."""
    if not set(FORMATS) <= set(Image.OPEN):
        Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(data[:16]) is True:
            try:
                return factory(BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # another kind of file, as in `Image.open`
                continue
    raise UnidentifiedImageError("cannot identify image file")


def decode(data: bytes, channels: int, name: str) -> Image.Image:
    """8-bit RGB or greyscale, upright; raises DamagedError naming what does not decode."""
    image = open_image(data, name)
    try:
        image.load()
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        return _converted(image, "RGB" if channels == 3 else "L")
    except Exception as error:
        raise DamagedError(f"{name}: does not decode ({_line(error, data)})") from None


def verify(data: bytes, name: str) -> None:
    """Raises DamagedError naming an image that does not decode. JPEGs are read whole but decoded at an eighth of their size."""
    image = open_image(data, name)
    try:
        image.draft("L", (1, 1))
        image.load()
        _check_depth(image)
    except Exception as error:
        raise DamagedError(f"{name}: does not decode ({_line(error, data)})") from None


def _check_depth(image: Image.Image) -> None:
    """Raises ValueError where the upper 8 of 16 bits are 0 everywhere, so that the image would become black."""
    if image.mode.startswith("I") and 0 < (brightest := int(np.asarray(image).max())) < 256:
        raise ValueError(f"16 bits a channel, none above {brightest} of 65535: save it anew with 8 bits a channel")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel
        _check_depth(image)
        high = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(high.clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 (h, w, c)."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _line(error: Exception, data: bytes) -> str:
    text = one_line(error)
    if "cannot identify" in text:
        return f"{len(data)} bytes beginning with {data[:8]!r}"
    return text


_STEP = 64
A = TypeVar("A")
T = TypeVar("T")


def bad_images(images: "DatasetFiles", description: str) -> Iterator[str]:
    """One line per image that does not decode, naming its sample id and path, in order of ids."""

    def fault(sample: int) -> str | None:
        try:
            verify(images.encoded[sample][0], "")
        except QueeError as error:
            return images.name(sample) + str(error)
        return None

    return (found for found in in_order(fault, len(images), description) if found is not None)


def in_order(function: Callable[[int], T], count: int, description: str) -> Iterator[T]:
    """`function` of 0 … count-1 in that order, computed ahead in threads, with progress."""

    def some(start: int) -> list[T]:
        return [function(index) for index in range(start, min(start + _STEP, count))]

    with ThreadPoolExecutor(2) as pool, progress(description, count) as bar:
        for found in ahead(pool, some, range(0, count, _STEP), 4):
            yield from found
            bar.advance(_STEP)


def ahead(pool: Executor, function: Callable[[A], T], items: Iterable[A], most: int) -> Iterator[T]:
    """`function` of each item in that order; at most `most` results are computed before they are asked for."""
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
