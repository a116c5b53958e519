"""Workers for shards: this process, processes of this machine, or a Dask cluster.

Each kind is a `Lanes`, which opens a `concurrent.futures` executor, and a new one after workers died. Neither the kind
nor the number of workers changes a result.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, parent_process
from typing import Any, Protocol

from quee.errors import UnreachableError, UsageError
from quee.work.registry import Registry

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT_SECONDS = 60.0
"""Seconds that a cluster may be without workers."""


@dataclass(frozen=True)
class Workers:
    """Number of workers, `address` of a Dask scheduler, and `initializer`, which runs first in every local process."""

    count: int = 1
    address: str | None = None
    initializer: Callable[[], None] | None = None
    gpus: int = 0
    """GPUs of this machine that local processes share; each process uses one."""


class Lanes(Protocol):
    """A kind of executor."""

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """Types of errors that mean that workers died; shards are then tried again."""

    def open(self) -> AbstractContextManager[Executor]: ...

    def check(self, executor: Executor) -> None:
        """Called while no shard finishes; raises UnreachableError where there are no workers."""


EXECUTORS: Registry[Callable[[Workers], Lanes]] = Registry("executor")


class _Inline(Executor):
    """Computes at once, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))  # the future carries the error
        return future


@EXECUTORS.register("inline")
@dataclass(frozen=True)
class Inline:
    """In this process, one shard after another."""

    workers: Workers = Workers()
    lost: tuple[type[BaseException], ...] = ()

    @contextmanager
    def open(self) -> Iterator[Executor]:
        yield _Inline()

    def check(self, executor: Executor) -> None:
        pass


def _begin(begun: Any, gpus: int, initializer: Callable[[], None] | None) -> None:
    """Run first in a local process: it ends with its caller, and sees the GPU whose turn it is. `begun` counts the processes."""
    threading.Thread(target=_end_with_caller, name="caller", daemon=True).start()
    if initializer is not None:
        initializer()
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    if gpus:
        os.environ[VISIBLE] = visible(os.environ.get(VISIBLE), gpus)[number % gpus]


def _end_with_caller() -> None:
    """Wait for the process that opened the pool to end, in whatever way, and end this one: its parent may be another."""
    if (caller := parent_process()) is not None:
        caller.join()
        os._exit(1)


def visible(setting: str | None, gpus: int) -> list[str]:
    """The names of this process's GPUs: those of CUDA_VISIBLE_DEVICES, or their numbers."""
    names = [name.strip() for name in (setting or "").split(",") if name.strip()]
    return names[:gpus] if len(names) >= gpus else [str(number) for number in range(gpus)]


def _context() -> Any:
    """How local processes begin: as forks of a server that has imported what the running module did, once for all pools.

    The server runs nothing else, so it has no threads that a fork would lose. Where there is no such server, every process
    imports by itself.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context, spec = get_context("forkserver"), getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and not spec.name.endswith("__main__"):
        ours = ("quee", spec.name.partition(".")[0])
        context.set_forkserver_preload(
            [name for name in sys.modules if name.partition(".")[0] in ours and name != spec.name]
        )
    return context


@EXECUTORS.register("processes")
@dataclass(frozen=True)
class Processes:
    """In processes of this machine."""

    workers: Workers
    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)

    @contextmanager
    def open(self) -> Iterator[Executor]:
        context = _context()
        begun = (context.Value("i", 0), self.workers.gpus, self.workers.initializer)
        pool = ProcessPoolExecutor(self.workers.count, context, _begin, begun)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def check(self, executor: Executor) -> None:
        pass


@EXECUTORS.register("dask")
class Dask:
    """On the workers of a running Dask scheduler, which have this project's folder under the same path."""

    def __init__(self, workers: Workers) -> None:
        try:
            import distributed
        except ImportError:
            raise UsageError("executor dask needs the package distributed: pip install 'quee[dask]'") from None
        if workers.address is None:
            raise UsageError(
                "executor dask: where is the scheduler? Set QUEE_DASK or DASK_SCHEDULER_ADDRESS, as tcp://HOST:8786"
            )
        self.address = workers.address
        self.lost: tuple[type[BaseException], ...] = (distributed.KilledWorker, CancelledError)
        self._client: Any = None

    @contextmanager
    def open(self) -> Iterator[Executor]:
        import distributed

        try:
            client = distributed.Client(self.address, timeout=WAIT_SECONDS / 4, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UnreachableError(f"no Dask scheduler at {self.address}: {' '.join(str(error).split())}") from None
        with client:
            self._client = client
            self.check(None)
            executor = client.get_executor(pure=False)
            try:
                yield executor
            finally:
                executor.shutdown(wait=False)

    def check(self, executor: Executor | None) -> None:
        try:
            self._client.wait_for_workers(1, timeout=WAIT_SECONDS)
        except TimeoutError:
            raise UnreachableError(
                f"the Dask scheduler at {self.address} has had no worker for {WAIT_SECONDS:.0f} s; "
                f"start some: `dask worker {self.address} --nthreads 1`"
            ) from None
