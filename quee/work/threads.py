"""Numbers of threads. Small networks get one, so that sums have one order on any number of cores.

PyTorch is imported by what sets its number; a deployed bundle only counts cores.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import TypeVar, cast

SMALL_MACS = 10_000_000
_COMPUTING = Lock()
_SETTING = Lock()
S = TypeVar("S")
T = TypeVar("T")


def cores(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Number of cores that this process may use, by its affinity and its control group's quota; at least one."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(group / "cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        own = min(own, -(-int(quota) // int(period)))
    return max(1, own)


def free_memory(proc: Path = Path("/proc"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory for new processes, by the machine and this control group; None where unknown."""
    found: list[int] = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Within this block PyTorch computes on one thread, so that the last bits do not depend on the number of threads.

    For small matrices one thread is also faster. Only the calling thread is affected.
    """
    import torch

    with _SETTING:  # a new thread must not read the number while another thread sets it
        threads = torch.get_num_threads()
    _set_here(1)
    try:
        yield
    finally:
        _set_here(threads)


def _set_here(threads: int) -> None:
    """Set the calling thread's number of threads.

    PyTorch keeps one number per thread and one for threads that have not computed yet. Its setter changes both, and a
    thread begun in between would keep the wrong one for good, so the second is put back.
    """
    import torch

    if torch.get_num_threads() == threads:
        return
    with _SETTING:
        common = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(threads)
        if common != threads:
            _in_new_thread(lambda: torch.set_num_threads(common))


def _in_new_thread(function: Callable[[], T]) -> T:
    found: list[T] = []
    thread = Thread(target=lambda: found.append(function()), name="quee-threads")
    thread.start()
    thread.join()
    return found[0]


@contextmanager
def alone() -> Iterator[None]:
    """Within this block a shard computes alone in its process and on one thread, so that its bytes depend on neither number."""
    from threadpoolctl import threadpool_limits

    with _COMPUTING, one_thread(), threadpool_limits(1, user_api="blas"):
        yield


def side_by_side(iterators: Iterable[Iterator[T]]) -> Iterator[tuple[T, ...]]:
    """Like `zip` with `strict`, but steps of the iterators run at the same time, in as many threads as there are cores.

    Each iterator is advanced by one thread at a time. An error of any of them is raised.
    """
    every, end = list(iterators), object()
    with ThreadPoolExecutor(cores()) as pool:
        while every:
            found = list(pool.map(lambda one: next(one, end), every))
            ended = [item is end for item in found]
            if all(ended):
                return
            if any(ended):
                raise ValueError(f"iterator {ended.index(True)} ends before the others")
            yield tuple(cast(list[T], found))


def in_threads(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Like `map`, in as many threads as there are cores."""
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(function, items)


def spare_threads(macs: int) -> None:
    """Run a network of fewer than `SMALL_MACS` MACs on one thread from here on: as fast, and repeatable on any machine.

    On a busy machine, several threads that wait for each other at every small product took fifteen times as long.
    """
    import torch

    if macs < SMALL_MACS:
        torch.set_num_threads(1)
