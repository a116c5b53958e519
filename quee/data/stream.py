"""Images without end of data sets that are drawn, for training.

Image i of a stream depends on its seed and on i alone. It is drawn from the training sources, and by another stream of random
numbers than the data set's own images, so that none of them is among these.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quee.data import DATASETS
from quee.data.decode import ahead
from quee.data.importers import cluttered_fashion, street_characters
from quee.data.importers.drawn import Draw, Origin
from quee.data.preprocessing import Preprocessing
from quee.data.transforms import ready
from quee.errors import IntegrityError
from quee.settings.backbone import Augmentation

ORIGINS: dict[str, Origin] = {origin.name: origin for origin in (cluttered_fashion.ORIGIN, street_characters.ORIGIN)}
AHEAD = 8
"""Batches that are drawn before they are asked for."""


@dataclass(frozen=True)
class Stream:
    """A stream of images by its data set, the path of what it is drawn from, and its seed."""

    origin: Origin
    path: Path
    seed: int

    @property
    def name(self) -> str:
        return f"stream-{self.seed}"

    def batches(
        self,
        executor: Executor,
        first: int,
        last: int,
        batch_size: int,
        transform: Preprocessing,
        augmentation: Augmentation | None = None,
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Batches `first` up to `last` of the stream, drawn ahead in the executor: numbers (n,), images as the backbone takes
        them, labels (n,)."""
        draw = partial(_drawn, self.origin.draw, str(self.path.resolve()), self.name, batch_size, transform)
        for number, pixels, labels in ahead(executor, draw, range(first, last), AHEAD):
            images = ready(pixels, number, transform, augmentation, (self.seed,))
            yield number, images, torch.from_numpy(labels)


def _drawn(
    draw: Draw, source: str, stream: str, batch_size: int, transform: Preprocessing, batch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch, as a worker draws it: numbers, pixels uint8 at the backbone's size, labels int64."""
    start = batch * batch_size
    pixels, labels, _ = draw(source, stream, start, start + batch_size)
    numbers = np.arange(start, start + batch_size)
    return numbers, transform.coloured(transform.fit_arrays(pixels)), labels.astype(np.int64)


def open_stream(dataset: str, seed: int, root: Path = Path()) -> Stream:
    """The stream of a data set that is drawn, with a seed; raises IntegrityError where its source is missing, UsageError for
    another source than the published one."""
    path = root / DATASETS[dataset].drawn_from
    if not path.exists():
        raise IntegrityError(
            f"missing: {path}, from which images of {dataset} are drawn; `quee run` says how to get it"
        )
    ORIGINS[dataset].checked(path)
    return Stream(ORIGINS[dataset], path, seed)
