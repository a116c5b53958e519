"""Elementary functions and interpolation whose last bits are the same on every CPU.

Libraries choose their code for exp and sin by the CPU, and its last bits differ. These use basic operations alone.
"""

import numpy as np

_LOWEST = -40.0
"""exp of less is below 1e-17 and counts as exp(-40)."""
_CUBIC = -0.75
"""The cubic kernel's parameter in OpenCV and PyTorch."""


def exp(x: np.ndarray) -> np.ndarray:
    """e to the power of x for x up to 40, within 1e-12 of the exact value: the Taylor series at x/64, squared six times."""
    part = np.maximum(x, _LOWEST) / 64
    total = np.ones_like(part)
    for k in range(16, 0, -1):
        total = total * part / k + 1
    for _ in range(6):
        total = total * total
    return total


def cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of angles below 1 radian, within 1e-15: their Taylor series to the power of 17."""
    square = angle * angle
    cosine, sine = np.ones_like(angle), np.ones_like(angle)
    for k in range(16, 0, -2):
        cosine = 1 - cosine * square / (k * (k - 1))
        sine = 1 - sine * square / (k * (k + 1))
    return cosine, sine * angle


def bordered(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w) in a frame of zeros, (n, h + 3, w + 3), as `bilinear` reads them."""
    return np.pad(images, ((0, 0), (1, 2), (1, 2)))


def bilinear(framed: np.ndarray, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of images between their pixels; zero outside.

    `framed` is what `bordered` returns, `index` numbers its images, `x` and `y` are coordinates in pixels, 0 at the centre
    of the first. The three broadcast to the shape of the result, float64.
    """
    _, height, width = framed.shape
    x, y = np.clip(x, -1, width - 3), np.clip(y, -1, height - 3)
    left, top = np.floor(x), np.floor(y)
    right, down = x - left, y - top  # shares of the next pixel
    first = (index * height + top.astype(np.int64) + 1) * width + left.astype(np.int64) + 1
    flat = framed.reshape(-1)
    upper = flat[first] * (1 - right) + flat[first + 1] * right
    lower = flat[first + width] * (1 - right) + flat[first + width + 1] * right
    return upper * (1 - down) + lower * down


def enlarged(grid: np.ndarray, factor: int) -> np.ndarray:
    """The last two axes of `grid`, enlarged by bicubic interpolation; its border goes on outside."""
    for axis in (-2, -1):
        length = grid.shape[axis]
        place = (np.arange(length * factor) + 0.5) / factor - 0.5
        first = np.floor(place)
        part = place - first
        shape = [1] * grid.ndim
        shape[axis] = len(place)
        total = np.zeros(1)
        for tap in (-1, 0, 1, 2):
            taken = np.clip(first + tap, 0, length - 1).astype(np.int64)
            total = total + np.take(grid, taken, axis) * _cubic(np.abs(part - tap)).reshape(shape)
        grid = total
    return grid


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Weight of a sample at a distance from 0 to 2 in cubic convolution (Keys 1981)."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return np.where(distance <= 1, near, far)


def filtered(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Images (n, c, h, w) filtered along both sides with their own weights (n, odd number); their borders go on outside."""
    reach = weights.shape[1] // 2
    for axis in (2, 3):
        length = images.shape[axis]
        wide = np.pad(images, [(0, 0)] * axis + [(reach, reach)] + [(0, 0)] * (3 - axis), mode="edge")
        total = np.zeros(1)
        for tap in range(weights.shape[1]):
            part = wide[:, :, tap : tap + length] if axis == 2 else wide[..., tap : tap + length]
            total = total + part * weights[:, tap, None, None, None]
        images = total
    return images
