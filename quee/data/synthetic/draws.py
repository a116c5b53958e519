"""Random numbers of images, from the raw bits of a generator: each image has a stream of its own.

NumPy keeps the bits of its generators, but not what it makes of them; so the numbers are made here.
"""

import functools
import hashlib
from math import prod
from statistics import NormalDist

import numpy as np

_LEVELS = 1 << 16
"""Different values of a normal number."""
_ROUNDED = 1 << 20
"""Quantiles are multiples of its inverse, so that the last bits of the C library's logarithm do not matter."""


class Draws:
    """Numbers for the images `start` to `stop` of a stream; rows are images, and do not depend on the others.

    `words` is how many 64-bit words an image takes: one for each number, a quarter for a normal one.
    """

    def __init__(self, stream: str, start: int, stop: int, words: int) -> None:
        key = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
        bits = [
            np.random.Philox(key=np.array([key, image], np.uint64)).random_raw(words) for image in range(start, stop)
        ]
        self._bits = np.stack(bits) if bits else np.zeros((0, words), np.uint64)
        self._used = 0

    def __len__(self) -> int:
        return len(self._bits)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        """float64 (images, *shape) from `low` up to `high`, in steps of 2⁻⁵³ of the range."""
        return self._units(shape) * (high - low) + low

    def integer(self, low: int, high: int, *shape: int) -> np.ndarray:
        """int64 (images, *shape) from `low` up to `high` - 1, each as often as the others within 2⁻³² (Lemire 2019)."""
        words = self._take(prod(shape)) >> np.uint64(32)
        return ((words * np.uint64(high - low)) >> np.uint64(32)).astype(np.int64).reshape(-1, *shape) + low

    def chance(self, share: float, *shape: int) -> np.ndarray:
        """bool (images, *shape), true with this probability."""
        return self._units(shape) < share

    def normal(self, *shape: int) -> np.ndarray:
        """float64 (images, *shape) of mean 0 and deviation 1, one of 65,536 equally probable quantiles, within ±4.3."""
        count = prod(shape)
        words = self._take(-(-count // 4))
        parts = (words[:, :, None] >> np.arange(0, 64, 16, dtype=np.uint64)) & np.uint64(_LEVELS - 1)
        levels = parts.reshape(len(words), -1)[:, :count]
        return quantiles()[levels.astype(np.int64)].reshape(-1, *shape)

    def _units(self, shape: tuple[int, ...]) -> np.ndarray:
        return ((self._take(prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(-1, *shape)

    def _take(self, count: int) -> np.ndarray:
        if self._used + count > self._bits.shape[1]:
            raise ValueError(
                f"an image has {self._bits.shape[1]} words; {self._used} are used, {count} more are asked for"
            )
        self._used += count
        return self._bits[:, self._used - count : self._used]


@functools.cache
def quantiles() -> np.ndarray:
    """The middles of 65,536 equally probable parts of the normal distribution, float64, rounded to 2⁻²⁰."""
    half = [NormalDist().inv_cdf((level + 0.5) / _LEVELS) for level in range(_LEVELS // 2, _LEVELS)]
    upper = np.array([round(value * _ROUNDED) for value in half]) / _ROUNDED
    return np.concatenate([-upper[::-1], upper])
