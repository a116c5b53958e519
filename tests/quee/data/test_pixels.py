"""Decoded images are taken from the cache only if they were decoded in the same way."""

from pathlib import Path

import numpy as np
import pytest

from quee.data import Dataset, pixels


class Source:
    """The part of an image source that the cache reads: three images of one size."""

    def __init__(self) -> None:
        self.dataset = Dataset("test", (4, 4), 1)
        self.digests = {"train-0.parquet": "a" * 64}

    def __len__(self) -> int:
        return 3

    def first_size(self) -> tuple[int, int]:
        return (4, 4)


@pytest.mark.parametrize("change", ["nothing", "Pillow", "numpy", "code", "files"])
def test_pixels_are_decoded_anew_when_what_decides_them_changed(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    decoded: list[int] = []

    def decode(sample: int) -> np.ndarray:
        decoded.append(sample)
        return np.full((4, 4, 1), sample, np.uint8)

    source = Source()
    pixels.cached_pixels(source, decode)  # type: ignore[arg-type]
    if change == "code":
        monkeypatch.setattr(pixels, "code", lambda *names: [[name, "other"] for name in names])
    elif change == "files":
        source.digests = {"train-0.parquet": "b" * 64}
    elif change != "nothing":
        known = pixels.versions(pixels.LIBRARIES)
        monkeypatch.setattr(pixels, "versions", lambda names: {**known, change: "0.0.1"})
    found = pixels.cached_pixels(source, decode)  # type: ignore[arg-type]
    assert sorted(decoded) == ([0, 1, 2] if change == "nothing" else [0, 0, 1, 1, 2, 2])
    assert found is not None
    assert [int(image.mean()) for image in found] == [0, 1, 2]
