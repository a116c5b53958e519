"""A sheet of examples: each class in turn, each image where it belongs."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quee.data.sheet import COLUMNS, TILE, in_turns, sheet
from quee.data.source import ImageSource, open_dataset
from quee.data.writer import Sample, encode_png, write_images
from quee.errors import UsageError


@pytest.fixture
def images(project: Path) -> ImageSource:
    """Images of one grey value each, ten times their number, 20 and 90 pixels wide."""
    Path("data").mkdir()
    for split, numbers in (("train", range(4)), ("test", range(4, 24))):
        greys = [np.full((20, 20 if n % 2 else 90, 3), 10 * n, np.uint8) for n in numbers]
        samples = [Sample(encode_png(grey), "", n // 12) for grey, n in zip(greys, numbers, strict=True)]
        write_images(Path(f"data/{split}-00000-of-00001.parquet"), samples, ("a", "b"))
    return open_dataset(Path("data"), "greys")


def test_classes_take_turns() -> None:
    assert in_turns(np.array([1, 1, 0, 2, 1, 0]), 9).tolist() == [2, 0, 3, 5, 1, 4]
    assert in_turns(np.array([1, 1, 0, 2, 1, 0]), 4).tolist() == [2, 0, 3, 5]


def test_each_image_of_the_evaluation_set_is_in_its_tile(images: ImageSource) -> None:
    picture = np.asarray(Image.open(BytesIO(sheet(images, 18, ".png"))))
    assert picture.shape == (2 * TILE, COLUMNS * TILE, 3)
    expected = [10 * n for pair in zip(range(4, 12), range(12, 20), strict=True) for n in pair] + [200, 210]
    middles = picture[TILE // 2 :: TILE, TILE // 2 :: TILE, 0].ravel()
    assert middles[:18].tolist() == expected and not middles[18:].any()
    assert sheet(images, 18, ".webp")[8:12] == b"WEBP"
    with pytest.raises(UsageError, match=r"a sheet ends in \.png or \.webp; got '\.gif'"):
        sheet(images, 18, ".gif")
