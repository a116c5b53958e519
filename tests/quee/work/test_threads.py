"""One thread for one caller; other threads of the process keep their number."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import pytest
import torch

from quee.work.threads import one_thread


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
