"""Images from callers of `quee.fit`, with labels or without: read once, checked, and kept at the backbone's size."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quee.data.preprocessing import Preprocessing
from quee.data.transforms import to_unit
from quee.errors import QueeError, UsageError
from quee.fitting.labels import Labels, column, joined
from quee.runtime.images import fitted
from quee.runtime.pixels import BATCH, SINGLE, accepted, check_choice
from quee.work.progress import progress

CHUNK = 256
"""Images read and kept at a time."""
LEAST = 40
"""Fewest labelled images beside others; fewer say too little about accuracy."""


class Given:
    """Images by row, uint8 at the backbone's size, in memory or in a file; with their labels if they have any."""

    def __init__(self, rows: "np.ndarray | Spool", labels: Labels | None, transform: Preprocessing) -> None:
        self.rows, self.labels, self.transform = rows, labels, transform

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, ids: np.ndarray) -> Tensor:
        """Normalised images (n, c, h, w) of rows `ids` (n,)."""
        return self.transform.normalise(to_unit(self.transform.coloured(self.rows[ids])))

    def close(self) -> None:
        if isinstance(self.rows, Spool):
            self.rows.close()

    def extremes(self) -> tuple[int, int]:
        """The least and the greatest value of any pixel."""
        low, high = 255, 0
        for start in range(0, len(self), CHUNK):
            chunk = self.rows[np.arange(start, min(start + CHUNK, len(self)))]
            low, high = min(low, int(chunk.min())), max(high, int(chunk.max()))
        return low, high


class Spool:
    """Images of one shape in a file, read in any order; no image is kept in memory."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._file = path.open("w+b", buffering=0)
        self.shape, self.size, self._width = shape, 0, int(np.prod(shape))

    def __len__(self) -> int:
        return self.size

    def add(self, images: np.ndarray) -> None:
        """Append uint8 images (n, *shape). Raises QueeError where the disk is full."""
        try:
            self._file.seek(self.size * self._width)
            view = memoryview(images.tobytes())
            while view:  # an unbuffered file may write only a part
                view = view[self._file.write(view) :]
        except OSError as error:
            raise QueeError(f"{self._file.name}: images cannot be kept ({error.strerror})") from None
        self.size += len(images)

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        found = np.empty((len(ids), self._width), np.uint8)
        for row, sample in enumerate(ids):
            self._file.seek(int(sample) * self._width)
            self._file.readinto(memoryview(found[row]))
        return found.reshape(len(ids), *self.shape)

    def close(self) -> None:
        self._file.close()


def read_images(images: Any, labels: Any, transform: Preprocessing, pixels: str, folder: Path) -> Given:
    """Images and labels as `quee.fit` takes them; images that are not an array of the backbone's size are kept in `folder`.

    A stream is read only once, because its order may change. Raises UsageError naming input that is not accepted.
    """
    check_choice(pixels)
    if labels is None and not _alone(images):
        return _from_batches(images, transform, pixels, folder)
    values = None if labels is None else column(labels)
    if not isinstance(images, np.ndarray) and not isinstance(images, Sequence):
        raise UsageError(
            f"images are a {type(images).__name__}; give an array or a list, or without labels what gives pairs of images "
            "and labels"
        )
    if isinstance(images, np.ndarray):
        images = accepted(images, "images", BATCH, pixels)
    if values is not None and len(images) != len(values.values):
        raise UsageError(f"{len(images)} images but {len(values.values)} labels")
    if isinstance(images, np.ndarray) and not transform.needs_resizing(*images.shape[1:3]):
        return Given(images, values, transform)
    reading = "uint8" if isinstance(images, np.ndarray) else pixels
    with _spool(folder, transform) as spool, progress("reading images", len(images)) as bar:
        for start in range(0, len(images), CHUNK):
            part = fitted(images[start : start + CHUNK], transform, reading, start)
            spool.add(part)
            bar.advance(len(part))
    return Given(spool, values, transform)


def read_beside(labelled: Any, transform: Preprocessing, pixels: str, folder: Path) -> Given:
    """The pair (images, labels) beside images without labels; no images where there is none. Raises UsageError."""
    if labelled is None:
        return Given(np.zeros((0, *transform.size, transform.channels), np.uint8), None, transform)
    if not isinstance(labelled, tuple | list) or len(labelled) != 2 or labelled[1] is None:
        raise UsageError(f"labelled is a {type(labelled).__name__}; give a pair: (images, labels)")
    (kept := folder / "labelled").mkdir()
    found = read_images(labelled[0], labelled[1], transform, pixels, kept)
    if len(found) < LEAST:
        found.close()
        raise UsageError(f"labelled: {len(found)} images; give at least {LEAST}, or none")
    return found


def refuse_beside(labelled: Any) -> None:
    """Raises UsageError for images beside others that have labels themselves."""
    if labelled is not None:
        raise UsageError("labelled= goes with images without labels; these have labels: give all images together")


def _alone(images: Any) -> bool:
    """Whether these are images without labels: an array, or a list of what are neither pairs nor batches."""
    if isinstance(images, np.ndarray):
        return True
    if not isinstance(images, Sequence) or isinstance(images, str | bytes) or not len(images):
        return False
    return not isinstance(images[0], tuple | list) and not (isinstance(images[0], np.ndarray) and images[0].ndim == 4)


def _from_batches(given: Any, transform: Preprocessing, pixels: str, folder: Path) -> Given:
    parts: list[Labels | None] = []
    total = len(given) if hasattr(given, "__len__") else 0
    with _spool(folder, transform) as spool, progress("reading images", total) as bar:
        for index, (some, own) in enumerate(_pairs(given)):
            images, labels = _batch(some, own, index, pixels)
            found = fitted(images, transform, "uint8" if isinstance(images, np.ndarray) else pixels, len(spool))
            if labels is not None and len(found) != len(labels.values):
                raise UsageError(f"batch {index}: {len(found)} images but {len(labels.values)} labels")
            if parts and (parts[0] is None) != (labels is None):
                has, had = ("no labels", "labels") if labels is None else ("labels", "none")
                raise UsageError(f"batch {index} has {has}, batch 0 {had}; give all images with labels, or none")
            spool.add(found)
            parts.append(labels)
            bar.advance(note=f"{len(spool)} images")
        if not parts:
            raise UsageError("no images given: nothing came from the batches; a generator that was used up gives none")
        labelled = [part for part in parts if part is not None]
    if len(parts) < total:
        warnings.warn(f"the batches ended early: {len(parts)} came of the {total} that their length says", stacklevel=2)
    return Given(spool, joined(labelled) if labelled else None, transform)


@contextmanager
def _spool(folder: Path, transform: Preprocessing) -> Iterator[Spool]:
    """A file for images; it is closed when filling it fails."""
    spool = Spool(folder / "images", (*transform.size, transform.channels))
    try:
        yield spool
    except BaseException:
        spool.close()
        raise


def _pairs(given: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of images and labels, None for arrays of images alone, from an iterable or a function that returns an iterator."""
    if callable(given) and not hasattr(given, "__iter__"):
        given = given()
    if isinstance(given, np.ndarray | str | bytes) or not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        raise UsageError(
            f"images are a {type(given).__name__}; give an array or a list of images, or batches: pairs (images, labels), or "
            "arrays of images without labels"
        )
    for index, batch in enumerate(given):
        if isinstance(batch, np.ndarray):
            yield batch, None
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            yield batch[0], batch[1]
        else:
            raise UsageError(
                f"batch {index} is a {type(batch).__name__}; give pairs (images, labels), or arrays of images without labels"
            )


def _batch(images: Any, labels: Any, index: int, pixels: str) -> tuple[Any, Labels | None]:
    """Images as `fitted` takes them, arrays as uint8, and their labels; one image with its label is a batch of one."""
    if labels is None:
        if np.ndim(images) != 4:  # of three axes it could be one image
            raise UsageError(
                f"batch {index} has shape {np.shape(images)}; without labels give batches (n, h, w, c), or an array of all"
            )
        return accepted(images, f"images of batch {index}", BATCH, pixels), None
    single = np.ndim(labels) == 0
    found = column([labels] if single else labels)
    if isinstance(images, np.ndarray) and single:
        return accepted(images, f"the image of batch {index}", SINGLE, pixels)[None], found
    if isinstance(images, np.ndarray):
        return accepted(images, f"images of batch {index}", BATCH, pixels), found
    return [images] if single else images, found
