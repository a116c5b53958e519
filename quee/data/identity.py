"""The identity of a sample: what it shows, wherever its image comes from.

A sample's key is a digest of its decoded pixels, so the same image has the same key in an archive, in Parquet files and in
folders, if it is stored without loss. An image that was compressed anew or resized has another. Sample ids are row numbers
of files and mean something for these files alone.
"""

import hashlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from quee.data.decode import in_order
from quee.data.walk import faults_text, shown
from quee.errors import UsageError

if TYPE_CHECKING:
    from quee.data.source import ImageSource

KEY_BYTES = 8
"""Two of a million different images share a key with probability 3e-8."""
MOST_BYTES = 512 << 20
"""Larger lists of names are refused."""


def pixel_key(pixels: np.ndarray) -> bytes:
    """Key of an image, uint8 (h, w, c): BLAKE2b of its shape and pixels. A grey image in three equal channels has one."""
    if pixels.shape[2] == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, :1]
    digest = hashlib.blake2b(np.array(pixels.shape, "<u4").tobytes(), digest_size=KEY_BYTES)
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.digest()


def sample_keys(images: "ImageSource", ids: np.ndarray | None = None) -> np.ndarray:
    """Keys (n,) uint64 of the samples `ids` (n,), or of all; every image is decoded."""
    chosen = np.arange(len(images)) if ids is None else np.asarray(ids)
    found = in_order(lambda row: pixel_key(images.pixels(int(chosen[row]))), len(chosen), "identifying images")
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def samples_named(images: "ImageSource", listed: Path, option: str) -> np.ndarray:
    """Ids (n,), rising, of the training samples whose original names a text file lists, a name a line.

    A name is the path that the data set's files give for an image, or its last part. Raises UsageError naming lines that are
    no training sample's name, or of several.
    """
    if not listed.is_file():
        raise UsageError(f"{option} {shown(listed)}: no such file; give a text file with the name of an image a line")
    if (size := listed.stat().st_size) > MOST_BYTES:
        raise UsageError(f"{option} {shown(listed)}: {size:,} bytes; at most {MOST_BYTES:,} are read")
    paths = [str(path) for path in images.paths[: images.train_samples]]
    short = [PurePosixPath(path).name for path in paths]
    place = {**dict(zip(short, range(len(short)), strict=True)), **dict(zip(paths, range(len(paths)), strict=True))}
    count = Counter(short) + Counter(path for path, name in zip(paths, short, strict=True) if path != name)
    try:
        names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise UsageError(f"{option} {shown(listed)}: not text in UTF-8") from None
    names = list(dict.fromkeys(name for name in names if name))
    faults = [f"{shown(name)}: no training image of that name" for name in names if name not in place]
    faults += [f"{shown(name)}: {count[name]} training images of that name" for name in names if count[name] > 1]
    if faults:
        raise UsageError(
            f"{option} {shown(listed)}, against {images.folder}: {faults_text(faults, 'names do not tell an image')}"
        )
    return np.sort(np.array([place[name] for name in names], np.int64))
