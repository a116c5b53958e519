"""Answers cross from another thread to the event loop, each to its own request."""

import asyncio
import threading
from concurrent.futures import Future

import pytest

from quee.serving.requests import GoneError
from quee.serving.service import Crossing


def test_answers_of_another_thread_reach_who_waits_with_one_wake_up_for_many() -> None:
    async def go() -> tuple[list[int], int]:
        crossing: Crossing[int] = Crossing()
        futures: list[Future[int]] = [Future() for _ in range(50)]
        waits = [asyncio.ensure_future(crossing.wait(future)) for future in futures]
        await asyncio.sleep(0)
        loop, wakes = asyncio.get_running_loop(), 0
        real = loop.call_soon_threadsafe

        def counted(*given: object) -> object:
            nonlocal wakes
            wakes += 1
            return real(*given)

        loop.call_soon_threadsafe = counted
        worker = threading.Thread(target=lambda: [f.set_result(i) for i, f in enumerate(futures)])
        worker.start()
        worker.join()  # the loop runs when all answers are there
        return await asyncio.gather(*waits), wakes

    assert asyncio.run(go()) == (list(range(50)), 1)


def test_one_already_there_and_what_failed_are_handed_on() -> None:
    async def go() -> None:
        crossing: Crossing[int] = Crossing()
        done: Future[int] = Future()
        done.set_result(3)
        assert await crossing.wait(done) == 3
        failed: Future[int] = Future()
        failed.set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await crossing.wait(failed)

    asyncio.run(go())


def test_who_leaves_cancels_what_was_asked_and_nobody_else() -> None:
    async def go() -> None:
        crossing: Crossing[int] = Crossing()
        futures: list[Future[int]] = [Future(), Future()]
        left = asyncio.Event()
        one = asyncio.ensure_future(crossing.wait(futures[0], left.wait))
        other = asyncio.ensure_future(crossing.wait(futures[1], asyncio.Event().wait))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(GoneError):
            await one
        assert futures[0].cancelled()
        futures[1].set_result(1)
        assert await other == 1

    asyncio.run(go())


def test_a_cancelled_task_cancels_what_it_waits_for() -> None:
    async def go() -> None:
        future: Future[int] = Future()
        task = asyncio.ensure_future(Crossing[int]().wait(future, asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()

    asyncio.run(go())
