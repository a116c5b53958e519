"""Street Characters: a digit or letter as a camera in the street sees it, its neighbours beside it, in any light.

32×32 colour, as SVHN; 47 classes, those of EMNIST's `bymerge` (Cohen et al. 2017, arXiv 1702.05373).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quee.data import DATASETS
from quee.data.synthetic.draws import Draws
from quee.data.synthetic.elementary import bilinear, bordered, cos_sin, enlarged, exp, filtered

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters of a face, in the order of the glyph table."""
CLASSES = DATASETS["street_characters"].classes
"""A lower-case letter that is none of them is in the class of its capital."""
SIDE = 32
"""Height and width of an image in pixels."""
GLYPH = 40
"""Height and width of a glyph in pixels."""
COARSE = 4
"""Height and width of a texture before it is enlarged."""
BLUR = 3
"""Pixels to either side that the blur reaches."""
_TEXTURE = 4 * COARSE * COARSE // 4 + 1
WORDS = 3 + 6 + 2 * 3 + 2 * _TEXTURE + 3 + 6 + 2 + 3 * SIDE * SIDE // 4

_CONTRASTS = 1.7635885922613586
"""ln(0.7 / 0.12): contrasts are log-uniform."""
_INKED = 76
"""A pixel of a glyph that is lighter has ink."""
_WHOLE = 255.0


@dataclass(frozen=True)
class Glyphs:
    """The 62 characters of some faces: `pixels` (faces, 62, 40, 40) uint8, `family` (faces,) int64."""

    pixels: np.ndarray
    family: np.ndarray

    @cached_property
    def framed(self) -> np.ndarray:
        """The glyphs of all faces, one after another, as `bilinear` reads them."""
        return bordered(self.pixels.reshape(-1, GLYPH, GLYPH))

    @cached_property
    def widths(self) -> np.ndarray:
        """Columns from the first to the last that has ink, (faces, 62) int64."""
        inked: np.ndarray = np.any(self.pixels > _INKED, axis=2)
        return GLYPH - inked[..., ::-1].argmax(axis=2) - inked.argmax(axis=2)


_OF = np.array([CLASSES.index(c if c in CLASSES else c.upper()) for c in CHARACTERS])
_MEMBERS = np.array([np.flatnonzero(np.equal(_OF, label))[[0, -1]] for label in range(len(CLASSES))])
"""First and last character of each class; one and the same for a class of one."""


def draw(draws: Draws, glyphs: Glyphs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 (n, 32, 32, 3), labels (n,) and the family of each image's face (n,).

    Faces and classes are drawn evenly, and within a class its characters.
    """
    face, label = draws.integer(0, len(glyphs.pixels)), draws.integer(0, len(CLASSES))
    glyph = _MEMBERS[label, draws.chance(0.5).astype(np.int64)]
    ink = _ink(draws, glyphs, face, glyph)[:, None]
    behind, front = _colours(draws)
    image = behind * (1 - ink) + front * ink
    sigma = draws.uniform(0.05, 1.7)  # pixels
    distance = np.arange(-BLUR, BLUR + 1.0)
    weights = exp(-(distance * distance) / (2 * (sigma * sigma))[:, None])
    total = np.zeros(len(weights))
    for tap in range(weights.shape[1]):  # in a fixed order
        total = total + weights[:, tap]
    image = filtered(image, weights / total[:, None])
    deviation = draws.uniform(0, 0.08)
    image = image + draws.normal(3, SIDE, SIDE) * deviation[:, None, None, None]
    pixels = np.floor(np.clip(image, 0, 1) * _WHOLE + 0.5).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), label, glyphs.family[face]


def _ink(draws: Draws, glyphs: Glyphs, face: np.ndarray, glyph: np.ndarray) -> np.ndarray:
    """How much ink covers each pixel (n, 32, 32): the character, scaled, turned and sheared, and up to two neighbours."""
    scale, (cosine, sine) = draws.uniform(0.85, 1.25), cos_sin(draws.uniform(-0.25, 0.25))
    shear, stretch = draws.uniform(-0.3, 0.3), draws.uniform(0.85, 1.2)
    right, down = draws.uniform(-0.18, 0.18), draws.uniform(-0.14, 0.14)  # in halves of the image
    place = (np.arange(SIDE) + 0.5) / (SIDE / 2) - 1
    x = place[None, None, :] - right[:, None, None]
    y = place[None, :, None] - down[:, None, None]
    zoom = (scale * (SIDE / GLYPH))[:, None, None]
    c, s, skew, wide = (value[:, None, None] for value in (cosine, sine, shear, stretch))
    turned_x, turned_y = x * c + y * s, y * c - x * s
    across, along = (turned_x * wide + turned_y * skew) * zoom, turned_y * zoom  # in halves of the glyph

    def put(characters: np.ndarray, aside: np.ndarray | float) -> np.ndarray:
        index = (face * len(CHARACTERS) + characters)[:, None, None]
        moved = across + np.reshape(aside, (-1, 1, 1))
        half = GLYPH / 2
        return bilinear(glyphs.framed, index, (moved + 1) * half - 0.5, (along + 1) * half - 0.5) / _WHOLE

    ink = put(glyph, 0.0)
    for side in (-1, 1):
        other, gap, there = draws.integer(0, len(CHARACTERS)), draws.uniform(1, 5), draws.chance(0.75)
        advance = ((glyphs.widths[face, glyph] + glyphs.widths[face, other]) / 2 + gap) / (GLYPH / 2)
        ink = np.maximum(ink, put(other, -side * advance) * there[:, None, None])
    return ink


def _colours(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Background and ink (n, 3, 32, 32), each with a smooth texture."""
    light = draws.uniform(0.15, 0.85)
    contrast = 0.12 * exp(draws.uniform(0, _CONTRASTS)) * np.where(draws.chance(0.5), -1.0, 1.0)
    contrast = np.where((light + contrast < 0) | (light + contrast > 1), -contrast, contrast)
    behind = light[:, None] + draws.uniform(-0.12, 0.12, 3)
    front = (light + contrast)[:, None] + draws.uniform(-0.12, 0.12, 3) * np.abs(contrast)[:, None] * 1.5
    return behind[:, :, None, None] + _texture(draws, 0.1), front[:, :, None, None] + _texture(draws, 0.06)


def _texture(draws: Draws, high: float) -> np.ndarray:
    """(n, 3, 32, 32), in part the same in all channels; its deviation is up to `high`, before it is smoothed."""
    coarse = draws.normal(3, COARSE, COARSE) * 0.6 + draws.normal(1, COARSE, COARSE)
    return enlarged(coarse, SIDE // COARSE) * draws.uniform(0, high)[:, None, None, None]
