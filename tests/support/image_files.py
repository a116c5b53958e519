"""Small image files."""

from io import BytesIO

import numpy as np
from PIL import Image


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    """Image bytes of uint8 (h, w, 3) or (h, w)."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
