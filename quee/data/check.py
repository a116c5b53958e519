"""Decoding every image of a dataset, to find the bad ones."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from quee.data.decode import verify
from quee.errors import QueeError
from quee.work.progress import progress

if TYPE_CHECKING:
    from quee.data.files import DatasetFiles

_STEP = 64
T = TypeVar("T")


def bad_images(images: "DatasetFiles", description: str, workers: int = 2) -> Iterator[str]:
    """One line per image that does not decode, naming its sample id and path, in order of ids."""

    def fault(sample: int) -> str | None:
        try:
            verify(images.encoded[sample][0], "")
        except QueeError as error:
            return images.name(sample) + str(error)
        return None

    return (found for found in in_order(fault, len(images), description, workers) if found is not None)


def in_order(function: Callable[[int], T], count: int, description: str, workers: int = 2) -> Iterator[T]:
    """`function` of 0 … count-1 in that order, computed ahead in threads, with progress."""

    def some(start: int) -> list[T]:
        return [function(index) for index in range(start, min(start + _STEP, count))]

    with ThreadPoolExecutor(workers) as pool, progress(description, count) as bar:
        waiting: deque[Future[list[T]]] = deque()
        try:
            for start in range(0, count, _STEP):
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
