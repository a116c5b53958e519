"""Decoded small images in memory-mapped arrays under `.quee/`, keyed by the digests of their files and of the code that
decodes them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quee.work.io import atomic_path
from quee.work.keys import code, key_of, versions
from quee.work.progress import progress

if TYPE_CHECKING:
    from quee.data.source import ImageSource

CACHE = Path(".quee") / "images"
MAX_BYTES = 4 << 30
"""Datasets with more bytes of pixels are decoded every time they are read."""
MAX_SIDE = 96
FORMAT = 1
DECODING = ("data/decode.py", "data/pixels.py")
LIBRARIES = ("numpy", "Pillow")
"""Libraries that decide the pixels; DECODING lists the code that does."""
_STEP = 512


def cached_pixels(source: "ImageSource", decode: Callable[[int], np.ndarray]) -> np.ndarray | None:
    """uint8 (N, h, w, c), decoded once; None where images are large or of several sizes."""
    if not len(source):
        return None
    height, width = source.first_size()
    shape = (len(source), height, width, source.dataset.channels)
    if max(height, width) > MAX_SIDE or np.prod(shape) > MAX_BYTES:
        return None
    key = key_of(FORMAT, shape, sorted(source.digests.items()), code(*DECODING), versions(LIBRARIES))
    path = CACHE / f"{key}.npy"
    if path.is_file() and (found := _open(path, shape)) is not None:
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
        if not _fill(array, decode):
            return None
        array.flush()
    return _open(path, shape)


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _fill(array: np.ndarray, decode: Callable[[int], np.ndarray]) -> bool:
    """Decode all images into `array`; false as soon as an image has another size."""

    def some(start: int) -> bool:
        for sample in range(start, min(start + _STEP, len(array))):
            pixels = decode(sample)
            if pixels.shape != array.shape[1:]:
                return False
            array[sample] = pixels
        return True

    with ThreadPoolExecutor(2) as pool, progress("decoding images", len(array)) as bar:
        for same in pool.map(some, range(0, len(array), _STEP)):
            if not same:
                pool.shutdown(cancel_futures=True)
                return False
            bar.advance(_STEP)
    return True
