"""The scheduler: samples of different callers, at different depths, share batches by segment and precision.

One worker thread runs, again and again, the group with most to gain: one whose first sample has waited for longer than
`linger`, the longest first, or else the one with the most samples. Nothing waits for a batch to fill.

>>> with Scheduler(classifier) as scheduler:                                            # doctest: +SKIP
...     futures = [scheduler.submit([image], Options(budget=0.1)) for image in images]
...     labels = [future.result().label[0] for future in futures]
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from threading import Condition, Thread
from types import TracebackType

import numpy as np

from quee.errors import QueeError, UsageError
from quee.policies import EXIT
from quee.runtime.classifier import AdaptiveClassifier, Collected, Routed
from quee.runtime.executor import Flight
from quee.runtime.images import Images
from quee.runtime.operating import Options

Group = tuple[int, int]
"""Segment and index of the precision at which it runs."""


class OverloadedError(QueeError):
    """The queue is full; try again later."""


class ExpiredError(QueeError):
    """The deadline passed before all samples were through."""


class DrainingError(QueeError):
    """The scheduler takes nothing more, or was stopped before all samples were through."""


@dataclass(frozen=True)
class Stats:
    """What a scheduler has done and has to do."""

    capacity: int
    """Samples that may be in flight."""
    in_flight: int
    """Samples accepted and not yet answered."""
    queue: dict[str, int]
    """Samples waiting, by `SEGMENT:PRECISION`."""
    batch_sizes: dict[int, int]
    """How many batches of each size were run."""
    requests: dict[str, int]
    """By outcome: `done`, `overloaded`, `expired`, `cancelled`, `failed`."""
    draining: bool


@dataclass
class _Request:
    collected: Collected
    remaining: int
    """Samples not answered yet."""
    deadline: float
    future: "Future[Routed]" = field(default_factory=Future)


@dataclass
class _Waiting:
    """Samples that wait for one segment at one precision, in the order they came."""

    parts: deque[tuple[float, Flight]] = field(default_factory=deque)
    size: int = 0

    def add(self, flight: Flight) -> None:
        self.parts.append((time.monotonic(), flight))
        self.size += len(flight)

    def pop(self, most: int) -> list[Flight]:
        taken: list[Flight] = []
        while self.parts and most:
            since, flight = self.parts.popleft()
            if len(flight) > most:
                self.parts.appendleft((since, flight.take(slice(most, None))))
                flight = flight.take(slice(0, most))
            most -= len(flight)
            self.size -= len(flight)
            taken.append(flight)
        return taken


class Scheduler:
    """Routes the images of many callers on one classifier; a sample's answer does not depend on the others.

    `batch` samples are run at a time; at most `capacity` are in flight, more are refused. A context manager: leaving it
    drains.
    """

    def __init__(
        self, classifier: AdaptiveClassifier, batch: int = 64, capacity: int = 1024, linger: float = 0.01
    ) -> None:
        """`linger` is in seconds. Starts the worker thread."""
        if batch < 1 or capacity < 1 or linger < 0:
            raise UsageError(f"batch={batch}, capacity={capacity}, linger={linger}: give at least 1, 1 and 0")
        self.classifier, self.batch, self.capacity, self.linger = classifier, batch, capacity, linger
        self._changed = Condition()
        self._groups: dict[Group, _Waiting] = {}
        self._requests: dict[int, _Request] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._numbers = count()
        self._answers: deque[tuple[_Request, Exception | None]] = deque()
        self._in_flight = 0
        self._sizes: Counter[int] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._draining = self._stopped = False
        self._worker = Thread(target=self._work, name="quee-scheduler", daemon=True)
        self._worker.start()

    def submit(
        self, images: Images | np.ndarray, options: Options | None = None, timeout: float | None = None
    ) -> "Future[Routed]":
        """Queue images as `AdaptiveClassifier.route` takes them, or prepared ones (n, c, h, w) as float32.

        They are decoded in the caller's thread. `timeout` in seconds counts from now. Cancelling the future drops what
        has not run yet. Raises UsageError for bad images or options, OverloadedError when the queue is full, DrainingError when
        nothing more is taken; the future fails with ExpiredError, DrainingError, or what the engine failed with.
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        n = len(images)
        if n > self.capacity:
            raise UsageError(f"{n} images in one request; at most {self.capacity}")
        self._reserve(n)
        try:
            x = self.classifier.prepared(images)
            flight, collected = self.classifier.launch(x, options or Options(), next(self._numbers))
        except BaseException:
            self._release(n)
            raise
        return self._enqueue(flight, _Request(collected, n, deadline))

    def _reserve(self, n: int) -> None:
        with self._changed:
            if self._draining:
                raise DrainingError("the scheduler takes no more images")
            if self._in_flight + n > self.capacity:
                self._outcomes["overloaded"] += 1
                raise OverloadedError(f"{self._in_flight} images in flight, at most {self.capacity}; try again later")
            self._in_flight += n

    def _release(self, n: int) -> None:
        with self._changed:
            self._in_flight -= n
            self._changed.notify_all()

    def _enqueue(self, flight: Flight, request: _Request) -> "Future[Routed]":
        number = int(flight.owner[0])
        with self._changed:
            if self._stopped:
                self._in_flight -= len(flight)
                raise DrainingError("the scheduler takes no more images")
            self._requests[number] = request
            if request.deadline < float("inf"):
                heappush(self._deadlines, (request.deadline, number))
            self._wait(1, flight)
            self._changed.notify_all()
        return request.future

    def _wait(self, segment: int, flight: Flight) -> None:
        for choice, group in flight.by_step():
            self._groups.setdefault((segment, choice), _Waiting()).add(group)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._expire()
                if self._stopped or (self._draining and not self._in_flight):
                    break
                key, group = self._next() if self._groups else ((0, 0), None)
                if group is None and not self._groups and not self._answers:
                    self._changed.wait(self._until_deadline())
            self._answer()
            if group is None:
                continue
            try:
                after, log_probs = self.classifier.executor.advance(*key, group)
            except Exception as error:  # whatever an engine fails with goes to those who asked
                with self._changed:
                    self._fail(np.unique(group.owner), error)
                self._answer()
                continue
            with self._changed:
                self._sizes[len(group)] += 1
                self._distribute(key[0], after, log_probs)
            self._answer()
        self._answer()

    def _next(self) -> tuple[Group, Flight | None]:
        """The group to run, and up to a batch of its samples whose callers still want them."""
        now = time.monotonic()
        overdue = {key: w for key, w in self._groups.items() if now - w.parts[0][0] > self.linger}
        if overdue:
            key = min(overdue, key=lambda k: overdue[k].parts[0][0])
        else:
            key = max(self._groups, key=lambda k: self._groups[k].size)
        waiting = self._groups[key]
        parts = waiting.pop(self.batch)
        if not waiting.size:
            del self._groups[key]
        return key, self._wanted(Flight.joined(parts))

    def _wanted(self, group: Flight) -> Flight | None:
        owners = np.unique(group.owner)
        for number in owners:
            request = self._requests.get(int(number))
            if request is not None and request.future.cancelled():
                self._finish(int(number), "cancelled")
        kept = [number for number in owners if int(number) in self._requests]
        if len(kept) == len(owners):
            return group
        return group.take(np.flatnonzero(np.isin(group.owner, kept))) if kept else None

    def _distribute(self, segment: int, after: Flight, log_probs: np.ndarray) -> None:
        leaves = np.flatnonzero(after.step == EXIT)
        if len(leaves):
            left, own = after.take(leaves), log_probs[leaves]
            for number in np.unique(left.owner):
                request = self._requests.get(int(number))
                if request is not None:
                    rows = np.flatnonzero(left.owner == number)
                    request.collected.put(left.take(rows), own[rows])
                    request.remaining -= len(rows)
                    if not request.remaining:
                        self._finish(int(number), "done")
        if len(leaves) < len(after):
            self._wait(segment + 1, after.take(np.flatnonzero(after.step != EXIT)))

    def _finish(self, number: int, outcome: str, error: Exception | None = None) -> None:
        request = self._requests.pop(number, None)
        if request is None:
            return
        self._in_flight -= len(request.collected)
        self._outcomes["cancelled" if request.future.cancelled() else outcome] += 1
        self._answers.append((request, error))
        self._changed.notify_all()

    def _answer(self) -> None:
        """Hand out what is finished; never under the lock, for futures call back."""
        while self._answers:
            request, error = self._answers.popleft()
            with suppress(InvalidStateError):  # cancelled meanwhile
                if error is not None:
                    request.future.set_exception(error)
                else:
                    request.future.set_result(request.collected.routed())

    def _until_deadline(self) -> float | None:
        return max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _expire(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heappop(self._deadlines)
            if number in self._requests:
                self._finish(number, "expired", ExpiredError("the deadline passed before all images were through"))

    def stats(self) -> Stats:
        names = self.classifier.tree.precisions
        with self._changed:
            return Stats(
                self.capacity,
                self._in_flight,
                {f"{s}:{names[c]}": w.size for (s, c), w in sorted(self._groups.items())},
                dict(sorted(self._sizes.items())),
                dict(self._outcomes),
                self._draining,
            )

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing more, answer what is in flight, end the worker; false when that took longer than `timeout` s."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        self._worker.join(timeout)
        return not self._worker.is_alive()

    def stop(self) -> None:
        """End now: what is in flight fails with DrainingError."""
        with self._changed:
            self._draining = self._stopped = True
            self._fail(list(self._requests), DrainingError("the scheduler was stopped"))
            self._groups.clear()
            self._changed.notify_all()
        self._worker.join()
        self._answer()

    def _fail(self, numbers: Iterable[int], error: Exception) -> None:
        for number in numbers:
            self._finish(int(number), "failed", error)

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.drain()
        else:
            self.stop()
