"""Cluttered Fashion: a garment of Fashion-MNIST, anywhere and of any size, among up to twelve scraps of others.

64×64 grey, after "cluttered MNIST" (Mnih et al. 2014, arXiv 1406.6247).
"""

import numpy as np

from quee.data.synthetic.draws import Draws
from quee.data.synthetic.elementary import bilinear, bordered, cos_sin, exp

SIDE = 64
"""Height and width of an image in pixels."""
GARMENT = 28
"""Height and width of a garment in pixels."""
SCRAPS = 12
"""Most scraps in an image."""
WORDS = 9 + 8 * SCRAPS + SIDE * SIDE // 4

_RANGE = 0.9808292530117262
"""ln(1.6 / 0.6): sizes are log-uniform."""
_WINDOW = 13
"""Columns that a scrap of less than 13 pixels can touch."""
_MARGIN = 7
"""Pixels that scraps reach beyond the image."""
_PIXELS = np.arange(SIDE) - (SIDE - 1) / 2
"""Places of an image's columns, from its centre."""
_WHOLE = 255.0


def draw(draws: Draws, garments: np.ndarray, training: int, evaluation: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 64, 64, 1), and the number of each image's garment (n,).

    `garments` (m, 28, 28) uint8 has the `training` training garments first. Those after them are drawn where `evaluation`
    is true, the training ones otherwise; scraps always come from the training ones.
    """
    framed = bordered(garments)
    index = draws.integer(training, len(garments)) if evaluation else draws.integer(0, training)
    canvas = np.zeros((len(draws), SIDE + 2 * _MARGIN, SIDE + 2 * _MARGIN))
    canvas[:, _MARGIN : _MARGIN + SIDE, _MARGIN : _MARGIN + SIDE] = _garment(draws, framed, index)
    count = draws.integer(0, SCRAPS + 1)
    for number in range(SCRAPS):
        _add_scrap(draws, canvas, framed, training, number < count)
    image = canvas[:, _MARGIN : _MARGIN + SIDE, _MARGIN : _MARGIN + SIDE]
    deviation = draws.uniform(0, 0.1)
    image = image + draws.normal(SIDE, SIDE) * deviation[:, None, None]
    return np.floor(np.clip(image, 0, 1) * _WHOLE + 0.5).astype(np.uint8)[..., None], index


def _garment(draws: Draws, framed: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The garments (n, 64, 64) in [0, 1]: 17 to 45 pixels a side, turned up to 0.45 radians, mirrored or not, dimmed."""
    side = 0.6 * GARMENT * exp(draws.uniform(0, _RANGE))
    cosine, sine = cos_sin(draws.uniform(-0.45, 0.45))
    mirrored = np.where(draws.chance(0.5), -1.0, 1.0)
    free = np.maximum((SIDE - side * 0.9) / 2, 0)
    right, down = draws.uniform(-1, 1) * free, draws.uniform(-1, 1) * free
    light = draws.uniform(0.4, 1)
    zoom = GARMENT / side
    x = _PIXELS[None, None, :] - right[:, None, None]
    y = _PIXELS[None, :, None] - down[:, None, None]
    c, s = (zoom * cosine)[:, None, None], (zoom * sine)[:, None, None]
    centre = (GARMENT - 1) / 2
    across = (x * c + y * s) * mirrored[:, None, None] + centre
    along = y * c - x * s + centre
    return bilinear(framed, index[:, None, None], across, along) / _WHOLE * light[:, None, None]


def _add_scrap(draws: Draws, canvas: np.ndarray, framed: np.ndarray, training: int, there: np.ndarray) -> None:
    """Put a square of 7 to 13 pixels of another training garment over the canvas, where it is lighter and `there`."""
    index, edge = draws.integer(0, training), draws.uniform(7, _WINDOW)
    x, y = draws.uniform(-30, 30), draws.uniform(-30, 30)
    u, v = draws.uniform(-0.45, 0.45), draws.uniform(-0.45, 0.45)  # centre in the other garment, in halves of its side
    zoom, light = draws.uniform(0.8, 1.3), draws.uniform(0.4, 1)
    half = edge / 2
    middle = (SIDE - 1) / 2
    left, top = np.ceil(x - half + middle), np.ceil(y - half + middle)
    columns, rows = left[:, None] + np.arange(_WINDOW), top[:, None] + np.arange(_WINDOW)
    across, along = columns - middle - x[:, None], rows - middle - y[:, None]
    inside = (np.abs(along) < half[:, None])[:, :, None] & (np.abs(across) < half[:, None])[:, None, :]
    centre = (GARMENT - 1) / 2
    scrap = bilinear(
        framed,
        index[:, None, None],
        (across * zoom[:, None] + (u * (GARMENT / 2))[:, None] + centre)[:, None, :],
        (along * zoom[:, None] + (v * (GARMENT / 2))[:, None] + centre)[:, :, None],
    )
    scrap = np.where(inside & there[:, None, None], scrap / _WHOLE * light[:, None, None], 0)
    place = (
        np.arange(len(canvas))[:, None, None],
        rows.astype(np.int64)[:, :, None] + _MARGIN,
        columns.astype(np.int64)[:, None, :] + _MARGIN,
    )
    canvas[place] = np.maximum(canvas[place], scrap)
