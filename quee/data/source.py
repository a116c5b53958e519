"""Images of a dataset, from Parquet to normalised batches."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from quee.data.decode import ahead, decode, to_array
from quee.data.files import DatasetFiles, checked_dataset
from quee.data.pixels import cached_pixels
from quee.data.preprocessing import Preprocessing
from quee.errors import QueeError
from quee.settings.backbone import Augmentation
from quee.work.io import FORMAT

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 48 << 20
"""Bytes of encoded images within which a stream is shuffled."""
WORKERS = min(16, os.cpu_count() or 1)
"""Threads that prepare batches; decoding and resampling release Python's lock."""


class ImageSource(DatasetFiles):
    """All images of a dataset: those of the training files, then those of the test files. Sample id: row number."""

    def image_size(self) -> tuple[int, int] | None:
        """Height and width if all images are small and have one size, else None."""
        return None if self._pixels is None else self._pixels.shape[1:3]

    @cached_property
    def _pixels(self) -> np.ndarray | None:
        """uint8 (N, h, w, c), memory-mapped, if all images are small and have one size, else None."""
        return cached_pixels(self, self._decode_array)

    def decode_image(self, sample: int) -> Image.Image:
        """One image, upright, with the dataset's number of channels; raises QueeError naming an image that does not decode."""
        data, _ = self.encoded[int(sample)]
        try:
            return decode(data, self.dataset.channels, "")
        except QueeError as error:
            raise QueeError(self.name(sample) + str(error)) from None

    def _decode_array(self, sample: int) -> np.ndarray:
        return to_array(self.decode_image(sample))

    def pixels(self, sample: int) -> np.ndarray:
        """uint8 (h, w, c) of one image."""
        return self._decode_array(sample) if self._pixels is None else np.asarray(self._pixels[sample])

    def decode(self, ids: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """uint8 (n, h, w, c), or a list of (h, w, c) where sizes differ."""
        if self._pixels is not None:
            return np.asarray(self._pixels[ids])
        return [self._decode_array(sample) for sample in ids]

    def batch(self, ids: np.ndarray, transform: Preprocessing) -> "Tensor":
        """float32 (n, c, H, W), normalised; an image's values do not depend on the others."""
        from quee.data.transforms import to_unit

        return transform.normalise(to_unit(self.fitted(np.asarray(ids), transform)))

    def fitted(self, ids: np.ndarray, transform: Preprocessing) -> np.ndarray:
        """uint8 (n, H, W, c) at the backbone's size, with its number of channels, in RGB."""
        if self._pixels is not None:
            pixels = transform.fit_arrays(self._pixels[ids])
        elif len(ids):
            pixels = np.stack([to_array(transform.fit(self.decode_image(sample))) for sample in ids])
        else:
            pixels = np.zeros((0, *transform.size, self.dataset.channels), np.uint8)
        return transform.coloured(pixels)

    def batches(
        self,
        ids: np.ndarray,
        transform: Preprocessing,
        batch_size: int,
        shuffle_seed: int | Sequence[int] | None = None,
        augmentation: Augmentation | None = None,
        workers: int | None = None,
        augmentation_seed: int | Sequence[int] | None = None,
        steps: slice = slice(None),
    ) -> "Iterator[tuple[np.ndarray, Tensor, Tensor]]":
        """Sample ids, images and labels (int64), batch after batch, prepared ahead in threads.

        `shuffle_seed`, such as (seed, epoch), sets the order and, unless `augmentation_seed` is given, the augmentation.
        The augmentation of a sample depends only on the seed and the sample's id. Without a seed the order is that of
        `ids`. Small images are shuffled as a whole, streamed images within windows. `steps` are the batches that are wanted
        of all.
        """
        import torch

        from quee.data.transforms import ready  # stages that only read images do without PyTorch, which takes seconds

        ids = np.asarray(ids, dtype=np.int64)
        seed = _words(shuffle_seed if augmentation_seed is None else augmentation_seed)
        if shuffle_seed is not None:
            rng = np.random.default_rng(_words(shuffle_seed))
            ids = rng.permutation(ids) if self._pixels is not None else self.encoded.shuffled(ids, rng, WINDOW)

        def prepare(part: np.ndarray) -> "tuple[np.ndarray, Tensor, Tensor]":
            images = ready(self.fitted(part, transform), part, transform, augmentation, seed)
            return part, images, torch.from_numpy(self.labels[part])

        parts = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)][steps]
        workers = workers or WORKERS
        with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
            yield from ahead(pool, prepare, parts, workers + 1)


def _words(seed: int | Sequence[int] | None) -> list[int]:
    return [0] if seed is None else [seed] if isinstance(seed, int) else list(seed)


def open_dataset(folder: Path, name: str, digests: Mapping[str, str] | None = None) -> ImageSource:
    """The images in `folder` of the dataset called `name`.

    With `digests` (file name to SHA-256) every file is checked before it is parsed. Raises IntegrityError naming a file
    that is missing, unexpected, truncated or altered, UsageError for an unknown dataset.
    """
    folder = Path(folder)
    return ImageSource(folder, checked_dataset(folder, name, digests))


def describe(source: ImageSource, name: str) -> dict[str, object]:
    """The facts of the images in `dataset.json`: classes, sizes, digests."""
    height, width = source.image_size() or source.dataset.size
    return {
        "format": FORMAT,
        "dataset": name,
        "classes": list(source.classes),
        "samples": len(source),
        "image": {"height": height, "width": width, "channels": source.dataset.channels},
        "files": source.digests,
        **({} if source.groups is None else {"groups": len(np.unique(source.groups))}),
        **({} if source.answers is None else {"answers": source.answers, **source.measure.facts}),
    }
