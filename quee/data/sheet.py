"""A sheet of example images of a data set, in one picture."""

from io import BytesIO

import numpy as np
from PIL import Image

from quee.data.source import ImageSource
from quee.errors import UsageError

TILE = 64
"""Height and width of an image on the sheet, in pixels."""
COLUMNS = 16
KINDS: dict[str, dict[str, object]] = {
    ".png": {"format": "PNG", "optimize": True},
    ".webp": {"format": "WEBP", "quality": 80, "method": 6},
}
"""How Pillow writes a sheet, by the ending of its file."""


def sheet(images: ImageSource, count: int, ending: str) -> bytes:
    """The bytes of a picture with `count` images of the evaluation set, or of the training set where there is none.

    Classes take turns, each with its first images. Raises UsageError for an ending that is not in `KINDS`.
    """
    if ending not in KINDS:
        raise UsageError(f"a sheet ends in {' or '.join(KINDS)}; got {ending!r}")
    first = images.train_samples if images.train_samples < len(images) else 0
    chosen = first + in_turns(images.labels[first:], count)
    rows = -(-len(chosen) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * TILE, rows * TILE))
    for place, sample in enumerate(chosen):
        shown = tile(images.decode_image(int(sample)))
        left, top = place % COLUMNS * TILE, place // COLUMNS * TILE
        whole.paste(shown, (left + (TILE - shown.width) // 2, top + (TILE - shown.height) // 2))
    sink = BytesIO()
    whole.save(sink, **KINDS[ending])  # type: ignore[arg-type]
    return sink.getvalue()


def in_turns(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions (at most `count`,) in `labels`: the first of each label, then the second of each, and so on."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    turn = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return order[np.lexsort((ordered, turn))][:count]


def tile(image: Image.Image) -> Image.Image:
    """An image within a tile: small ones enlarged by a whole factor, so that their pixels can be seen."""
    factor = TILE // max(image.size)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return image
