"""The service of the endpoints: the model, admission, answers, metrics, and the change to another model."""

import asyncio
import gc
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread

from quee.errors import DisagreementError, IntegrityError, QueeError, UsageError
from quee.runtime.bundle import load_bundle
from quee.runtime.classifier import AdaptiveClassifier, Images, Options, Routed
from quee.runtime.control import BudgetControl
from quee.runtime.explanation import Explanation
from quee.runtime.manifest import NAME, read_manifest
from quee.runtime.replaced import read_settled
from quee.runtime.scheduler import DrainingError, ExpiredError, OverloadedError, Scheduler
from quee.serving.metrics import Metrics
from quee.serving.requests import GoneError, RefusedError, bad
from quee.serving.settings import Settings
from quee.work.counts import counted
from quee.work.io import file_digest, read_json

THREADS = 2
"""Number of threads for parsing large requests and decoding images; it bounds their memory."""
SMALL = 32 * 1024
"""Requests of at most so many bytes (or pixel values) are handled on the event loop, because a thread would take longer."""
EXPLAINING = 8
"""Most explanations that may wait at once. Each runs its images alone, outside of the shared batches."""
RATE_WINDOW = 10.0
"""Seconds over which the rate of answers is measured, for Retry-After."""
LOG = logging.getLogger(__name__)
T = TypeVar("T")


def settle() -> None:
    """Exempt all present objects from garbage collection, which took a fifth of the event loop's time.

    Call it after a model is loaded. The call also frees a model that was replaced before.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def release() -> None:
    """Let all objects be collected again. Call it at the end: extension modules print what outlives the interpreter."""
    gc.unfreeze()
    gc.collect()


ROOM = 280.0
"""MB of compiled graphs that a server holds unless told otherwise; less costs digits up to half of its throughput."""


class Served:
    """A loaded bundle, its scheduler, and the control of its budgets.

    The digest is that of `bundle.json`, which holds the digests of all other files.
    """

    def __init__(
        self,
        bundle: Path,
        queue: int,
        batch: int,
        control: bool,
        digest: str | None = None,
        engine: str | None = None,
        threads: int | None = None,
        megabytes: float | None = None,
        default: Options | None = None,
    ) -> None:
        """`default` holds for requests that name no options; without any, the bundle's budget does. `megabytes` limits
        compiled graphs, as in `AdaptiveClassifier.warm`; the default is `ROOM`, or what three sizes of each step that images
        take need, where that is more.

        Raises IntegrityError where the bundle is not whole or has another digest than `digest`.
        """
        folder = bundle.resolve()  # resolve the link once, so that all files come from one bundle

        def load() -> tuple[AdaptiveClassifier, float]:
            read_manifest(folder)  # raises where there is no bundle
            if digest is not None and digest != (has := file_digest(folder / NAME)):
                raise IntegrityError(f"{bundle} has digest {has}, expected {digest}")
            loaded = load_bundle(folder, engine, threads)
            if digest not in (None, loaded.digest):
                raise IntegrityError(f"{bundle} was replaced while it was read")
            limit = ROOM if megabytes is None else megabytes
            loaded.warm(
                batch, limit, megabytes is None
            )  # first calls are slow, and a bundle that cannot run is refused
            return loaded, float(read_json(folder / "tree.json")["unit_bitflops"])

        self.classifier, self.unit_bitflops = read_settled(folder, NAME, load)
        self.digest = self.classifier.digest
        self.refused = False
        """Whether a graph that was compiled since disagreed with the reference: the engine answers nothing more."""
        self.name = f"quee-{self.classifier.description['experiment']}"
        self.version = self.digest[:12]
        bundled = Options(budget=self.classifier.budget)
        self.default = bundled if default is None or default.default else default
        self.control = BudgetControl([point.cost for point in self.classifier.points], enabled=control)
        self.classifier.predict(np.zeros((1, *self.classifier.transform.size, 3), np.uint8))
        self.scheduler = Scheduler(self.classifier, batch=batch, capacity=queue)

    def asked(self, options: Options) -> float | None:
        """The budget of a request; None for a request by anything else alone."""
        return self.told(options).budget

    def told(self, options: Options) -> Options:
        """The options of a request, or the server's where it has none."""
        return self.default if options.default else options

    def applied(self, options: Options, waiting: int) -> Options:
        """The options to route under: the requested ones, with the budget corrected; `waiting` images are in flight."""
        options = self.told(options)
        asked = options.budget
        if asked is None or not asked > 0:  # refused later
            return options
        return replace(options, budget=self.control.applied(asked, waiting))

    def close(self, timeout: float) -> bool:
        """Answer the requests in flight; false where this was stopped after `timeout` seconds."""
        done = self.scheduler.drain(timeout)
        if not done:
            self.scheduler.stop()
        return done


class Crossing(Generic[T]):
    """Awaits futures of another thread; one wake-up of the event loop serves all that are ready.

    All calls of `wait` come from one event loop.
    """

    def __init__(self) -> None:
        self._ready: deque[tuple[Future[T], asyncio.Future[T]]] = deque()
        self._woken = False

    async def wait(self, future: "Future[T]", gone: Callable[[], Awaitable[Any]] | None = None) -> T:
        """The future's result. If `gone` returns first, the future is cancelled and GoneError raised."""
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
        if not self._woken:  # else `_deliver` still runs and finds it
            self._woken = True
            with suppress(RuntimeError):  # the event loop has ended, so nobody waits
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


@dataclass(frozen=True)
class Answer:
    """Answers to a request's images, with their budget and model."""

    routed: Routed
    served: Served
    asked: float | None
    applied: Options
    explanations: list[Explanation] | None = None

    @property
    def parameters(self) -> dict[str, object]:
        """Facts of an answer besides its tensors. Routed offline under `budget_applied`, an image gets the same answer."""
        found = {
            "budget": self.asked,
            "budget_applied": None if self.asked is None else self.applied.budget,
            "accuracy_loss": self.applied.accuracy_loss,
            "trade_off": self.applied.trade_off,
            "max_cost": self.applied.max_cost,
        }
        said: dict[str, object] = {name: value for name, value in found.items() if value is not None}
        return {
            **said,
            "budget_met": self.routed.budget_met,
            "decided_by": " + ".join(dict.fromkeys(self.routed.decided_by)),
            "model_digest": self.served.digest,
            "policy": self.served.classifier.policy_name,
        }


class Service:
    """State of the endpoint: the current bundle of a path, the queue, the metrics."""

    def __init__(
        self,
        bundle: Path,
        settings: Settings,
        batch: int = 64,
        digest: str | None = None,
        engine: str | None = None,
        threads: int | None = None,
        megabytes: float | None = None,
    ) -> None:
        """Loads the bundle; raises IntegrityError as `Served` does."""
        self.bundle, self.settings, self.batch, self.engine, self.threads = bundle, settings, batch, engine, threads
        self.megabytes = megabytes
        self.metrics = Metrics()
        self.current = self._load(digest)
        self.ending = False
        self.admitted = 0
        """Images admitted and not yet answered."""
        self._threads = CapacityLimiter(THREADS)
        self._apart = CapacityLimiter(1)
        self._explaining = 0
        self._crossing: Crossing[Routed] = Crossing()
        self._reloading = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._answered = 0
        self._since, self._rate = time.monotonic(), 0.0
        self.metrics.watch(lambda: self.admitted, settings.queue, lambda: self.ready)
        self.metrics.serves(self.current.name, self.current.digest)

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return not (self.ending or self.current.refused)

    def _load(self, digest: str | None) -> Served:
        settings = self.settings
        # The scheduler has room beyond the queue, so it never refuses admitted images.
        room = settings.queue + settings.max_images
        return Served(
            self.bundle,
            room,
            self.batch,
            settings.control,
            digest,
            self.engine,
            self.threads,
            self.megabytes,
            settings.default,
        )

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Callable[[int], None]]:
        """A place in the queue for one image; call the result with a number for as many places. Raises RefusedError (503)."""
        held = 0

        def take(count: int) -> None:
            nonlocal held
            if held < count and self.admitted + count - held > self.settings.queue and self.admitted > held:
                raise RefusedError(
                    503, "queue", f"{counted(self.admitted, 'waiting image')} already", self.retry_after()
                )
            self.admitted += count - held
            held = count

        try:
            take(1)
            yield take
        finally:
            self.admitted -= held

    def retry_after(self) -> int:
        """Seconds until the queue is empty at the recent rate of answers, from 1 to 30."""
        return min(max(math.ceil(self.admitted / self._rate), 1), 30) if self._rate else 1

    async def done(self, work: Callable[[], T], size: int) -> T:
        """The work's result. Work of a large `size` runs in a thread, so that other requests need not wait for it."""
        return work() if size <= SMALL else await to_thread.run_sync(work, limiter=self._threads)

    async def route(
        self,
        images: Images,
        options: Options,
        timeout: float | None = None,
        explain: bool = False,
        gone: Callable[[], Awaitable[Any]] | None = None,
    ) -> Answer:
        """Route admitted images; raises RefusedError with the fault of the images, or 503.

        `gone` returns when the client has left; samples that have not run are then dropped, with GoneError.
        """
        timeout = min(timeout or math.inf, self.settings.deadline)
        # encoded images are small, but decoding them is work
        size = images.size if isinstance(images, np.ndarray) else SMALL + 1
        while True:
            served = self.current
            applied = served.applied(options, self.admitted)
            try:
                future = await self.done(lambda s=served, a=applied: s.scheduler.submit(images, a, timeout), size)  # type: ignore[misc]
                routed = await self._crossing.wait(future, gone)
                break
            except DrainingError:
                if served is self.current:
                    raise RefusedError(503, "shutdown", "the server is about to end", 1) from None
            except ExpiredError:
                raise RefusedError(503, "deadline", f"not answered within {timeout:g} s", self.retry_after()) from None
            except OverloadedError:
                raise RefusedError(503, "queue", "too many images wait already", self.retry_after()) from None
            except DisagreementError as error:
                raise self._refused(served, error) from None
            except (UsageError, QueeError) as error:
                raise bad(str(error), "image") from None
        self._count(served, options, applied, routed)
        asked = served.asked(options)
        explanations = await self._explain(served, images, applied) if explain else None
        return Answer(routed, served, asked, applied, explanations)

    def _count(self, served: Served, options: Options, applied: Options, routed: Routed) -> None:
        if (asked := served.asked(options)) is not None:
            expected = served.classifier.operating(applied).expected.cost
            state = served.control.spent(asked, routed.cost, expected)
            self.metrics.steered(served.control.label(asked), asked, state)
        self.metrics.routed(routed, served.unit_bitflops, asked)
        self._answered += len(routed.label)
        elapsed = time.monotonic() - self._since
        if elapsed > RATE_WINDOW:
            self._rate, self._answered, self._since = self._answered / elapsed, 0, time.monotonic()
        elif not self._rate and elapsed > 1:
            self._rate = self._answered / elapsed

    async def _explain(self, served: Served, images: Images, applied: Options) -> list[Explanation]:
        if self._explaining >= EXPLAINING:
            raise RefusedError(503, "explaining", f"{EXPLAINING} explanations wait already", 1)
        self._explaining += 1
        try:
            again = partial(served.classifier.explain, images, **asdict(applied))  # the answers are the same
            return await to_thread.run_sync(again, limiter=self._apart)
        except DisagreementError as error:
            raise self._refused(served, error) from None
        finally:
            self._explaining -= 1

    @staticmethod
    def _refused(served: Served, error: DisagreementError) -> RefusedError:
        """503, now and for all requests after it, until another bundle or a server with another engine takes over."""
        if not served.refused:
            LOG.error("%s", error)
        served.refused = True
        return RefusedError(503, "engine", "the engine disagrees with the bundle's reference, and answers nothing more")

    async def reload(self, digest: str | None = None) -> Served:
        """Load the bundle at the path anew. The old bundle serves until the new one is checked, and stays if that fails.

        Requests in flight are answered by the model that accepted them. Raises IntegrityError or QueeError.
        """
        async with self._reloading:
            try:
                fresh = await to_thread.run_sync(lambda: self._load(digest), limiter=self._apart)
            except QueeError:
                self.metrics.reloaded("refused")
                raise
            old, self.current = self.current, fresh
            self.metrics.serves(fresh.name, fresh.digest)
            self.metrics.reloaded("done")
            task = asyncio.create_task(self._retire(old))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
            return fresh

    async def _retire(self, served: Served) -> None:
        await asyncio.to_thread(served.close, self.settings.deadline + 1)
        del served
        if gc.get_freeze_count():
            settle()

    async def close(self) -> None:
        """Answer the requests in flight, accept nothing more."""
        self.ending = True
        await asyncio.to_thread(self.current.close, self.settings.grace)
        await asyncio.gather(*self._retired)
