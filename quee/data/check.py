"""Decoding every image of a dataset, to find the bad ones."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from quee.data.decode import verify
from quee.errors import QueeError
from quee.progress import progress

if TYPE_CHECKING:
    from quee.data.files import DatasetFiles

_STEP = 64


def bad_images(images: "DatasetFiles", description: str, workers: int = 2) -> Iterator[str]:
    """One line per image that does not decode, naming its sample id and path, in order of ids."""

    def some(start: int) -> list[str]:
        faults = []
        for sample in range(start, min(start + _STEP, len(images))):
            try:
                verify(images.encoded[sample][0], "")
            except QueeError as error:
                faults.append(images.name(sample) + str(error))
        return faults

    with ThreadPoolExecutor(workers) as pool, progress(description, len(images)) as bar:
        waiting: deque[Future[list[str]]] = deque()
        try:
            for start in range(0, len(images), _STEP):
                waiting.append(pool.submit(some, start))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
                    bar.advance(_STEP)
            while waiting:
                yield from waiting.popleft().result()
                bar.advance(_STEP)
        finally:
            for future in waiting:
                future.cancel()
