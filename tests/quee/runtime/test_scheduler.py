"""The scheduler: answers equal the classifier's in any batch; a full queue, a deadline and a stop raise their own errors."""

import itertools
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from callers import at_once
from hypothesis import given
from hypothesis import strategies as st

from quee.errors import UsageError
from quee.runtime import AdaptiveClassifier, Options
from quee.runtime.executor import Flight
from quee.runtime.scheduler import DrainingError, ExpiredError, OverloadedError, Scheduler, _Waiting, next_group

BUDGETS = (0.05, 0.2, 0.4, 0.9)


class Held:
    """An engine that waits for permission before each batch; it decides when a batch runs, but not which."""

    def __init__(self, engine) -> None:
        self.engine, self.name, self.gate, self.batches = engine, engine.name, threading.Event(), 0

    def run(self, segment, precision, state):
        assert self.gate.wait(20)
        self.batches += 1
        return self.engine.run(segment, precision, state)

    def executed(self, precision):
        return self.engine.executed(precision)


@pytest.fixture
def held(classifier: AdaptiveClassifier) -> tuple[AdaptiveClassifier, Held]:
    c, engine = classifier, Held(classifier.engine)
    return c.on(engine), engine


def same(a, b) -> bool:
    return a.path == b.path and np.array_equal(a.probabilities, b.probabilities) and np.array_equal(a.cost, b.cost)


def test_callers_in_many_threads_get_what_the_classifier_alone_gives_them(classifier, images) -> None:
    def caller(number: int) -> None:
        random = np.random.default_rng(number)
        for _ in range(4):
            own = images[0][random.integers(len(images[0]), size=random.integers(1, 20))]
            options = Options(budget=float(random.choice(BUDGETS)))
            found = scheduler.submit(own, options).result(60)
            assert same(found, classifier.route(own, budget=options.budget))

    with Scheduler(classifier, batch=16, capacity=4096) as scheduler:
        at_once(caller, 8)
        stats = scheduler.stats()
    assert stats.requests == {"done": 32} and stats.in_flight == 0 and not stats.queue


def test_callers_share_batches(held, images) -> None:
    classifier, engine = held
    with Scheduler(classifier, batch=64, capacity=256) as scheduler:
        futures = [scheduler.submit(images[0][i : i + 1], Options(trade_off=0.01)) for i in range(40)]
        engine.gate.set()
        for future in futures:
            future.result(60)
        sizes = scheduler.stats().batch_sizes
    assert max(sizes) > 10  # a trade-off between two points may begin with two precisions
    assert sum(size * number for size, number in sizes.items()) >= 40


def flight(slots: list[int]) -> Flight:
    return Flight(np.array(slots), np.zeros((len(slots), 1), np.float32))


@given(st.lists(st.tuples(st.sampled_from(["add", "pop", "drop"]), st.integers(1, 9)), max_size=20))
def test_waiting_times_add_up_whatever_is_taken_and_dropped(moves) -> None:
    waiting, numbers = _Waiting(), itertools.count()
    for move, count in moves:
        if move == "add":
            waiting.add(flight(list(itertools.islice(numbers, count))))
        elif move == "pop" and waiting.size:
            taken = waiting.pop(count)
            assert len(taken) <= count
        elif waiting.size:
            waiting.drop(waiting.parts[-1][1].slots[:count])
        now = time.monotonic()
        alone = [now - since for since, part in waiting.parts for _ in part.slots]
        assert waiting.size == len(alone)
        assert waiting.waited(now) == pytest.approx(sum(alone), abs=1e-6)


def test_the_group_whose_samples_waited_longest_in_sum_is_next() -> None:
    groups = {(1, 0): _Waiting(), (1, 1): _Waiting(), (2, 0): _Waiting()}
    groups[1, 0].add(flight([0]))
    time.sleep(0.02)
    groups[1, 1].add(flight(list(range(1, 30))))
    time.sleep(0.02)
    groups[2, 0].add(flight(list(range(30, 40))))
    assert next_group(groups, patience=16) == (1, 1)  # 29 · 20 ms against 40 ms and next to nothing


@pytest.mark.parametrize("patience", [1, 4, 16])
def test_nobody_is_passed_over_for_ever(patience: int) -> None:
    groups = {(1, choice): _Waiting() for choice in range(4)}
    groups[1, 0].add(flight([0]))

    def flooded() -> tuple[int, int]:
        for choice in range(1, 4):
            groups[1, choice].add(flight([1] * 500))
        return next_group(groups, patience)

    turn = next(turn for turn in range(1000) if flooded() == (1, 0))
    assert patience <= turn <= patience + len(groups)


def test_a_full_queue_refuses_and_takes_again_when_it_empties(held, images) -> None:
    classifier, engine = held
    with Scheduler(classifier, capacity=10) as scheduler:
        first = scheduler.submit(images[0][:8])
        with pytest.raises(OverloadedError, match="8 images in flight, at most 10"):
            scheduler.submit(images[0][:3])
        with pytest.raises(UsageError, match="at most 10"):
            scheduler.submit(images[0][:11])
        engine.gate.set()
        first.result(60)
        assert len(scheduler.submit(images[0][:10]).result(60).label) == 10
        assert scheduler.stats().requests == {"done": 2, "overloaded": 1}


def test_bad_input_is_refused_at_once_and_takes_no_place(classifier, images) -> None:
    with Scheduler(classifier, capacity=4) as scheduler:
        for _ in range(3):
            with pytest.raises(UsageError, match="does not|not a readable"):
                scheduler.submit([b"no image"] * 4)
        with pytest.raises(UsageError, match="not finite"):
            scheduler.submit_prepared(np.full((1, 1, 8, 8), np.nan, np.float32))
        assert scheduler.stats().in_flight == 0
        assert len(scheduler.submit(images[0][:4]).result(60).label) == 4


def test_prepared_images_are_taken_as_they_are(classifier, images) -> None:
    with Scheduler(classifier) as scheduler:
        found = scheduler.submit_prepared(classifier.prepare(images[0][:5])).result(60)
    assert same(found, classifier.route(images[0][:5]))


def test_a_deadline_that_passes_frees_the_place(held, images) -> None:
    classifier, engine = held
    with Scheduler(classifier, capacity=8) as scheduler:
        blocking = scheduler.submit(images[0][:2])
        late = scheduler.submit(images[0][2:6], timeout=0.01)
        time.sleep(0.05)
        engine.gate.set()
        with pytest.raises(ExpiredError, match="deadline"):
            late.result(60)
        assert len(blocking.result(60).label) == 2
        assert len(scheduler.submit(images[0][:8]).result(60).label) == 8
        assert scheduler.stats().requests == {"done": 2, "expired": 1}


def test_cancelled_requests_are_not_run(held, images) -> None:
    classifier, engine = held
    with Scheduler(classifier, batch=2) as scheduler:
        running = scheduler.submit(images[0][:1])  # two might begin with two precisions
        while not scheduler.stats().in_flight or scheduler.stats().queue:  # until the worker has taken them
            time.sleep(0.001)
        dropped = scheduler.submit(images[0][:60])
        assert dropped.cancel()
        engine.gate.set()
        running.result(60)
    with pytest.raises(CancelledError):
        dropped.result(0)
    assert engine.batches <= classifier.tree.segments * 2
    assert scheduler.stats().in_flight == 0


def test_draining_answers_what_is_in_flight_and_takes_nothing_more(held, images) -> None:
    classifier, engine = held
    scheduler = Scheduler(classifier)
    future = scheduler.submit(images[0][:5])
    assert not scheduler.drain(timeout=0.05)
    with pytest.raises(DrainingError):
        scheduler.submit(images[0][:1])
    engine.gate.set()
    assert scheduler.drain(timeout=60)
    assert same(future.result(0), classifier.route(images[0][:5]))


def test_stopping_fails_what_is_in_flight(held, images) -> None:
    classifier, engine = held
    scheduler = Scheduler(classifier)
    future = scheduler.submit(images[0][:5])
    threading.Timer(0.05, engine.gate.set).start()
    scheduler.stop()
    with pytest.raises(DrainingError, match="stopped"):
        future.result(0)


def test_what_an_engine_fails_with_reaches_the_caller_and_nobody_else(held, images) -> None:
    classifier, engine = held
    engine.gate.set()
    good = engine.engine

    class Failing:
        def run(self, segment, precision, state):
            if len(state) == 3:
                raise RuntimeError("no memory")
            return good.run(segment, precision, state)

    with Scheduler(classifier) as scheduler:
        engine.engine = Failing()
        with pytest.raises(RuntimeError, match="no memory"):
            scheduler.submit(images[0][:3], Options(trade_off=0.0)).result(60)
        engine.engine = good
        assert same(scheduler.submit(images[0][:4]).result(60), classifier.route(images[0][:4]))
    assert scheduler.stats().requests == {"failed": 1, "done": 1}


def test_places_of_requests_given_up_anywhere_on_their_way_are_free_again(classifier, images) -> None:
    expected = classifier.route(images[0][:200], budget=0.4)

    def caller(number: int) -> None:
        random = np.random.default_rng(number)
        for _ in range(12):
            start = int(random.integers(150))
            rows = slice(start, start + int(random.integers(1, 40)))
            fate = random.choice(["wait", "cancel", "expire"])
            timeout = float(random.uniform(0, 0.02)) if fate == "expire" else None
            try:
                future = scheduler.submit(images[0][rows], Options(budget=0.4), timeout)
                if fate == "cancel":
                    time.sleep(float(random.uniform(0, 0.02)))
                    future.cancel()
                found = future.result(60)
            except (OverloadedError, ExpiredError, CancelledError):
                continue
            assert found.path == expected.path[rows]
            assert np.array_equal(found.probabilities, expected.probabilities[rows])

    with Scheduler(classifier, batch=16, capacity=120) as scheduler:
        at_once(caller, 6)
        assert same(scheduler.submit(images[0][:120]).result(60), classifier.route(images[0][:120]))
        stats = scheduler.stats()
    assert stats.in_flight == 0 and not stats.queue
    assert sum(stats.requests.values()) == 6 * 12 + 1 and {"done", "cancelled", "expired"} <= set(stats.requests)


def test_callbacks_may_ask_the_scheduler(classifier, images) -> None:
    followed = []
    with Scheduler(classifier) as scheduler:
        future = scheduler.submit(images[0][:3])
        future.add_done_callback(lambda _: followed.append(scheduler.submit(images[0][3:5])))
        future.result(60)
        while not followed:
            time.sleep(0.001)
        assert len(followed[0].result(60).label) == 2
