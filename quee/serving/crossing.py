"""From the scheduler's thread to the event loop: one wake-up for all answers that are ready, not one for each."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from quee.serving.refusal import GoneError

T = TypeVar("T")


class Crossing(Generic[T]):
    """Awaits futures of another thread. All calls of `wait` come from one event loop."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Future[T], asyncio.Future[T]]] = deque()
        self._woken = False

    async def wait(self, future: "Future[T]", gone: Callable[[], Awaitable[Any]] | None = None) -> T:
        """The future's result. When `gone` returns first the future is cancelled, and GoneError raised."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: self._put(loop, done, answer))
        left = None if gone is None else asyncio.ensure_future(gone())
        if left is not None:
            left.add_done_callback(lambda _: answer.cancel())
        try:
            return await answer
        except asyncio.CancelledError:
            future.cancel()
            if left is not None and left.done() and not left.cancelled():
                raise GoneError from None
            raise
        finally:
            if left is not None:
                left.cancel()

    def _put(self, loop: asyncio.AbstractEventLoop, future: "Future[T]", answer: "asyncio.Future[T]") -> None:
        self._ready.append((future, answer))
        if not self._woken:  # else `_deliver` is still to come, and will find it
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._ready:
            future, answer = self._ready.popleft()
            if answer.done():
                continue
            if future.cancelled():
                answer.cancel()
            elif (error := future.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(future.result())
