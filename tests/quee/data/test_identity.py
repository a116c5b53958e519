"""A sample's key depends on what it shows, not on where its image came from."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quee.data.identity import pixel_key, sample_keys, samples_named
from quee.data.importers import import_dataset
from quee.data.source import open_dataset
from quee.data.writer import Sample, encode_png, write_images
from quee.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stored(name: str, order: np.ndarray, paths: list[str] | None = None) -> Path:
    """A data set of `PIXELS` in an order; class by parity."""
    target = Path("data") / name
    target.mkdir(parents=True)
    rows = [Sample(encode_png(PIXELS[i]), (paths or [f"{i}.png"] * 12)[i], int(i % 2)) for i in order]
    write_images(target / "train-00000-of-00001.parquet", rows, ("even", "odd"))
    return target


def test_images_have_the_same_keys_in_parquet_and_in_folders_of_other_files() -> None:
    order = np.random.default_rng(1).permutation(12)
    own = sample_keys(open_dataset(stored("own", order), "own"))
    assert own.dtype == np.uint64 and len(np.unique(own)) == 12
    for i, pixels in enumerate(PIXELS):
        file = Path("files") / ("even", "odd")[i % 2] / f"other{i}.{'webp' if i % 3 else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, lossless=True)
    import_dataset("folders", Path("files"), Path("data/folders"))
    images = open_dataset(Path("data/folders"), "folders")
    assert set(sample_keys(images)) == set(own)
    assert sample_keys(images, np.array([3])) == sample_keys(images)[3]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 9), st.integers(1, 9))
def test_a_key_tells_pixels_and_shape_and_not_how_grey_is_stored(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 1), dtype=np.uint8)
    assert pixel_key(image) == pixel_key(image.repeat(3, axis=2)) == pixel_key(np.asfortranarray(image))
    changed = image.copy()
    changed[0, 0] += 1
    assert pixel_key(changed) != pixel_key(image)
    if height != width:
        assert pixel_key(image.reshape(width, height, 1)) != pixel_key(image)


def test_samples_are_found_by_their_original_names() -> None:
    paths = [f"{'ab'[i % 2]}/{i}.png" for i in range(11)] + ["a/0.png"]
    images = open_dataset(stored("own", np.arange(12), paths), "own")
    listed = Path("names.txt")
    listed.write_text("3.png\n\nb/1.png\n2.png\n3.png\n")
    assert samples_named(images, listed, "--seen").tolist() == [1, 2, 3]
    listed.write_text("0.png\n3.png\n99.png\n")
    with pytest.raises(UsageError, match=r"(?s)--seen names.txt.*99.png: no training image.*0.png: 2 training images"):
        samples_named(images, listed, "--seen")
    with pytest.raises(UsageError, match="--never-seen other.txt: no such file"):
        samples_named(images, Path("other.txt"), "--never-seen")
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text in UTF-8"):
        samples_named(images, listed, "--seen")
