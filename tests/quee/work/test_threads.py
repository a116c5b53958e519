"""One thread for one caller; other threads of the process keep their number."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import pytest
import torch

from quee.work.threads import in_threads, one_thread, side_by_side


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def of_new_thread() -> int:
    found: list[int] = []
    thread = Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_the_caller_has_one_thread_and_its_own_again_afterwards() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


def test_a_thread_that_begins_meanwhile_has_the_usual_number() -> None:
    with one_thread():
        assert of_new_thread() == 4
    assert of_new_thread() == 4


def test_an_error_restores_it_too() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 4


def test_callers_that_overlap_in_any_order_leave_nothing_behind() -> None:
    together = Barrier(4, timeout=60)

    def call(rounds: int) -> set[int]:
        seen = set()
        for _ in range(rounds):
            together.wait()
            with one_thread():
                seen.add(torch.get_num_threads())
            assert torch.get_num_threads() == 4
        return seen

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, [30] * 4)) == [{1}] * 4
    assert torch.get_num_threads() == of_new_thread() == 4


def test_iterators_side_by_side_give_what_zip_gives_and_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quee.work.threads.cores", lambda: 2)
    met = Barrier(2, timeout=30)

    def counting(start: int) -> Iterator[int]:
        for step in range(3):
            met.wait()
            yield start + step

    assert list(side_by_side([counting(0), counting(10)])) == [(0, 10), (1, 11), (2, 12)]
    assert list(side_by_side([])) == []


def test_iterators_side_by_side_raise_what_one_raises_and_refuse_other_lengths() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(side_by_side([failing(), iter([1, 2])]))
    with pytest.raises(ValueError, match="iterator 1 ends before"):
        list(side_by_side([iter([1, 2]), iter([1])]))


def test_a_function_in_threads_gives_what_map_gives_and_raises_what_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quee.work.threads.cores", lambda: 2)
    met = Barrier(2, timeout=30)

    def doubled(item: int) -> int:
        met.wait()
        return 2 * item

    assert list(in_threads(doubled, [3, 1, 4, 1])) == [6, 2, 8, 2]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0]))
