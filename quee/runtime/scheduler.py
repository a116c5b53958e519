"""The scheduler: samples of different callers, at different depths, share batches by segment and precision.

One worker thread repeatedly runs the group with the largest sum of its samples' waiting times, so large and old groups go
first. A group that was passed over `patience` times is next. Nothing waits for a batch to fill.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from threading import Condition, Thread
from types import TracebackType
from typing import Any

import numpy as np

from quee.errors import QueeError, UsageError
from quee.policies.base import EXIT
from quee.runtime.classifier import AdaptiveClassifier, Routed, Start
from quee.runtime.executor import Flight, Passed
from quee.runtime.images import Images, checked
from quee.runtime.operating import Options
from quee.work.counts import counted

Group = tuple[int, int]
"""Segment, and index of the precision at which it runs."""


class OverloadedError(QueeError):
    """The queue is full; try again later."""


class ExpiredError(QueeError):
    """The deadline passed before all samples were answered."""


class DrainingError(QueeError):
    """The scheduler accepts nothing more, or was stopped before all samples were answered."""


@dataclass(frozen=True)
class Stats:
    """Counters of a scheduler."""

    capacity: int
    """Samples that may be in flight."""
    in_flight: int
    """Samples accepted and not yet answered."""
    queue: dict[str, int]
    """Samples waiting, by `SEGMENT:PRECISION`."""
    batch_sizes: dict[int, int]
    """Number of batches run, by size."""
    requests: dict[str, int]
    """By outcome: `done`, `overloaded`, `expired`, `cancelled`, `failed`."""
    draining: bool
    """Whether nothing more is accepted."""


@dataclass
class _Request:
    """One caller's images, each in a slot of the scheduler's table."""

    slots: np.ndarray
    log_probs: np.ndarray
    """(n, classes), filled in as samples leave."""
    met: bool
    deadline: float
    remaining: int
    """Samples not answered yet."""
    future: "Future[Routed]" = field(default_factory=Future)


@dataclass
class _Waiting:
    """Samples that wait for one segment at one precision, in the order they came."""

    parts: deque[tuple[float, Flight]] = field(default_factory=deque)
    """Arrival time in seconds, and the samples that arrived."""
    size: int = 0
    came: float = 0.0
    """Sum of the samples' arrival times."""
    passed: int = 0
    """Batches of other groups run since this group last ran."""

    def add(self, flight: Flight) -> None:
        now = time.monotonic()
        self.parts.append((now, flight))
        self.size += len(flight)
        self.came += now * len(flight)

    def waited(self, now: float) -> float:
        """Sum of the samples' waiting times, in seconds."""
        return now * self.size - self.came

    def pop(self, most: int) -> Flight:
        taken: list[Flight] = []
        while self.parts and most:
            since, flight = self.parts.popleft()
            if len(flight) > most:
                self.parts.appendleft((since, flight.take(slice(most, None))))
                flight = flight.take(slice(0, most))
            most -= len(flight)
            self.size -= len(flight)
            self.came -= since * len(flight)
            taken.append(flight)
        return Flight.joined(taken)

    def drop(self, slots: np.ndarray) -> None:
        kept: deque[tuple[float, Flight]] = deque()
        for since, flight in self.parts:
            rows = np.flatnonzero(~np.isin(flight.slots, slots))
            if len(rows):
                kept.append((since, flight if len(rows) == len(flight) else flight.take(rows)))
        self.parts, self.size = kept, sum(len(flight) for _, flight in kept)
        self.came = sum(since * len(flight) for since, flight in kept)


def next_group(groups: dict[Group, _Waiting], patience: int) -> Group:
    """The group to run: passed over `patience` times, or else with the largest sum of waiting times."""
    now = time.monotonic()
    chosen = max(groups, key=lambda key: groups[key].passed)
    if groups[chosen].passed < patience:
        chosen = max(groups, key=lambda key: groups[key].waited(now))
    for waiting in groups.values():
        waiting.passed += 1
    groups[chosen].passed = 0
    return chosen


class Scheduler:
    """Routes the images of many callers on one classifier; a sample's answer does not depend on the others.

    At most `batch` samples run at a time. At most `capacity` are in flight, more are refused. As a context manager the
    scheduler drains on exit.

    Examples:
        >>> with Scheduler(classifier) as scheduler:  # doctest: +SKIP
        ...     futures = [scheduler.submit([image], Options(budget=0.1)) for image in images]
        ...     labels = [future.result().label[0] for future in futures]
    """

    def __init__(
        self, classifier: AdaptiveClassifier, batch: int = 64, capacity: int = 1024, patience: int = 16
    ) -> None:
        """Starts the worker thread."""
        if batch < 1 or capacity < 1 or patience < 1:
            raise UsageError(f"batch={batch}, capacity={capacity}, patience={patience}: give at least 1")
        self.classifier, self.batch, self.capacity, self.patience = classifier, batch, capacity, patience
        self._changed = Condition()
        slots = capacity + batch  # slots of abandoned requests stay occupied while their samples run
        self._samples = classifier.executor.samples(slots)
        self._free = list(range(slots))
        self._owner = np.full(slots, -1)
        self._row = np.zeros(slots, np.int64)
        self._running = np.zeros(0, np.int64)
        self._groups: dict[Group, _Waiting] = {}
        self._requests: dict[int, _Request] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._answers: deque[tuple[_Request, Routed | Exception]] = deque()
        self._numbers = count()
        self._in_flight = 0
        self._sizes: Counter[int] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._draining = self._stopped = False
        self._worker = Thread(target=self._work, name="quee-scheduler", daemon=True)
        self._worker.start()

    def submit(
        self, images: Images, options: Options | None = None, timeout: float | None = None, pixels: str = "uint8"
    ) -> "Future[Routed]":
        """Queue images as `AdaptiveClassifier.route` takes them.

        Images are decoded in the caller's thread. `timeout` in seconds counts from now. Cancelling the future drops
        samples that have not run yet. Raises UsageError for bad images or options, OverloadedError when the queue is
        full, DrainingError when nothing more is accepted. The future fails with ExpiredError, DrainingError, or the
        engine's own error.
        """
        return self._submit(images, lambda: self.classifier.prepare(images, pixels), options, timeout)

    def submit_prepared(
        self, x: np.ndarray, options: Options | None = None, timeout: float | None = None
    ) -> "Future[Routed]":
        """`submit` for prepared images (n, c, h, w), float32."""
        return self._submit(x, lambda: checked(x, self.classifier.transform), options, timeout)

    def _submit(
        self, images: Any, prepare: Callable[[], np.ndarray], options: Options | None, timeout: float | None
    ) -> "Future[Routed]":
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        n = len(images) if hasattr(images, "__len__") else 1  # `prepare` refuses it
        if n > self.capacity:
            raise UsageError(f"{counted(n, 'image')} in one request; at most {self.capacity}")
        self._reserve(n)
        try:
            x = prepare()
            start = self.classifier.start(x, options or Options())
        except BaseException:
            self._release(n)
            raise
        return self._enqueue(x, start, deadline)

    def _reserve(self, n: int) -> None:
        with self._changed:
            if self._draining:
                raise DrainingError("the scheduler takes no more images")
            if self._in_flight + n > self.capacity:
                self._outcomes["overloaded"] += 1
                raise OverloadedError(
                    f"{counted(self._in_flight, 'image')} in flight, at most {self.capacity}; try again later"
                )
            self._in_flight += n

    def _release(self, n: int) -> None:
        with self._changed:
            self._in_flight -= n
            self._changed.notify_all()

    def _enqueue(self, x: np.ndarray, start: Start, deadline: float) -> "Future[Routed]":
        n, number = len(x), next(self._numbers)
        with self._changed:
            if self._stopped:
                self._in_flight -= n
                raise DrainingError("the scheduler takes no more images")
            slots = np.array(self._free[-n:])
            del self._free[-n:]
            self._samples.admit(slots, start.trade_off, start.max_cost)
            self._owner[slots], self._row[slots] = number, np.arange(n)
            answers = np.empty((n, len(self.classifier.classes)))
            request = self._requests[number] = _Request(slots, answers, start.met, deadline, n)
            if deadline < float("inf"):
                heappush(self._deadlines, (deadline, number))
            self._wait(1, Flight(slots, x), start.first)
            self._changed.notify_all()
        request.future.add_done_callback(lambda future: self._cancel(number) if future.cancelled() else None)
        return request.future

    def _wait(self, segment: int, flight: Flight, steps: np.ndarray) -> None:
        for choice, group in flight.by_step(steps):
            self._groups.setdefault((segment, choice), _Waiting()).add(group)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._expire()
                if self._stopped or (self._draining and not self._in_flight):
                    break
                work = self._next() if self._groups else None
                if work is None and not self._answers:
                    self._changed.wait(self._until_deadline())
            self._answer()
            if work is not None:
                self._run(*work)
                self._answer()
        self._answer()

    def _run(self, key: Group, flight: Flight) -> None:
        executor, segment = self.classifier.executor, key[0]
        try:
            passed = executor.advance(*key, self._samples, flight)
            steps = executor.decide(segment, self._samples, flight.slots, passed.settled)
        except Exception as error:  # callers get any error of the engine
            with self._changed:
                self._running = self._running[:0]
                self._reclaim(flight.slots)
                self._give_up({int(n) for n in self._owner[flight.slots]} - {-1}, "failed", error)
            return
        with self._changed:
            self._running = self._running[:0]
            self._reclaim(flight.slots)
            self._sizes[len(flight)] += 1
            self._distribute(segment, passed, steps)

    def _next(self) -> tuple[Group, Flight]:
        """The group to run, and up to a batch of its samples."""
        key = next_group(self._groups, self.patience)
        flight = self._groups[key].pop(self.batch)
        if not self._groups[key].size:
            del self._groups[key]
        self._running = flight.slots
        return key, flight

    def _distribute(self, segment: int, passed: Passed, steps: np.ndarray) -> None:
        after, log_probs = passed.flight, passed.log_probs
        live = self._owner[after.slots] >= 0
        leaves = np.flatnonzero(live & (steps == EXIT))
        owners = self._owner[after.slots[leaves]]
        for number in np.unique(owners):
            request, rows = self._requests[int(number)], leaves[owners == number]
            assert log_probs is not None
            request.log_probs[self._row[after.slots[rows]]] = log_probs[rows]
            request.remaining -= len(rows)
            if not request.remaining:
                self._done(int(number))
        onward = np.flatnonzero(live & (steps != EXIT))
        if len(onward):
            whole = len(onward) == len(after)
            self._wait(segment + 1, after if whole else after.take(onward), steps if whole else steps[onward])

    def _done(self, number: int) -> None:
        request = self._requests[number]
        own = self._samples
        node, error, knob = own.node[request.slots], own.error[request.slots], own.trade_off[request.slots]
        self._forget(number, "done")
        self._answers.append((request, self.classifier.routed(node, request.log_probs, error, knob, request.met)))

    def _give_up(self, numbers: Iterable[int], outcome: str, error: Exception | None) -> None:
        """Drop unanswered requests, and their samples wherever they wait."""
        for number in numbers:
            if (request := self._requests.get(number)) is not None:
                self._forget(number, outcome)
                for key in list(self._groups):
                    self._groups[key].drop(request.slots)
                    if not self._groups[key].size:
                        del self._groups[key]
                if error is not None:
                    self._answers.append((request, error))

    def _forget(self, number: int, outcome: str) -> None:
        request = self._requests.pop(number)
        self._owner[request.slots] = -1
        self._free += np.setdiff1d(request.slots, self._running).tolist()
        self._in_flight -= len(request.slots)
        self._outcomes[outcome] += 1
        self._changed.notify_all()

    def _reclaim(self, slots: np.ndarray) -> None:
        """Free the slots of samples that were abandoned while they ran."""
        self._free += slots[self._owner[slots] < 0].tolist()

    def _cancel(self, number: int) -> None:
        with self._changed:
            self._give_up([number], "cancelled", None)

    def _answer(self) -> None:
        """Complete the futures of finished requests; never under the lock, because futures call back."""
        while True:
            with self._changed:
                if not self._answers:
                    return
                request, answer = self._answers.popleft()
            with suppress(InvalidStateError):  # cancelled in the meantime
                if isinstance(answer, Exception):
                    request.future.set_exception(answer)
                else:
                    request.future.set_result(answer)

    def _until_deadline(self) -> float | None:
        return max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _expire(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heappop(self._deadlines)
            self._give_up([number], "expired", ExpiredError("the deadline passed before all images were through"))

    def stats(self) -> Stats:
        """Counters of now."""
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
        """Accept nothing more, answer the samples in flight, end the worker; false if this takes more than `timeout` seconds."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        self._worker.join(timeout)
        return not self._worker.is_alive()

    def stop(self) -> None:
        """End now; requests in flight fail with DrainingError."""
        with self._changed:
            self._draining = self._stopped = True
            self._give_up(list(self._requests), "failed", DrainingError("the scheduler was stopped"))
            self._changed.notify_all()
        self._worker.join()
        self._answer()

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.drain()
        else:
            self.stop()
