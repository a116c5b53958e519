"""Which compiled graphs stay where memory is limited."""

import numpy as np
import pytest

from quee.runtime.engines import held as module
from quee.runtime.engines.held import Graphs, coarse_to_fine

STEP, OTHER = ("engine", 1, "w8a8"), ("engine", 2, "w8a8")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Room for three graphs of 10 bytes."""
    readings = iter(range(0, 10_000, 10))
    monkeypatch.setattr(module, "resident_bytes", lambda: next(readings))
    return Graphs(limit=30)


def load(size: int):
    return lambda x: [np.full(len(x), size)]


def sizes(graphs: Graphs) -> list[tuple[int, int]]:
    return [(graph.step[1], graph.size) for graph in graphs.held]


def test_where_there_is_no_room_a_smaller_batch_takes_a_larger_graph(graphs: Graphs) -> None:
    for size in (64, 1, 8):
        assert graphs.find(STEP, size, load)[0].size == size
    assert graphs.taken() == 30 and not graphs.has_room()
    found, run = graphs.find(STEP, 4, lambda size: pytest.fail("compiled without room"))
    assert found.size == 8 and run(np.zeros(2))[0].tolist() == [8, 8]


def test_a_step_without_a_graph_takes_the_place_of_one_that_others_can_do_without(graphs: Graphs) -> None:
    for used, size in enumerate((64, 1, 8)):
        graphs.find(STEP, size, load)[0].used = used
    dropped = graphs.held[1]
    graphs.find(OTHER, 64, load)
    assert sizes(graphs) == [(1, 64), (1, 8), (2, 64)] and dropped.run is None
    graphs.find(("engine", 3, "w8a8"), 64, load)
    graphs.find(("engine", 4, "w8a8"), 64, load)
    assert sizes(graphs) == [(2, 64), (3, 64), (4, 64)], "the last one of a step goes by when it was used"


def test_what_was_dropped_is_compiled_again(graphs: Graphs) -> None:
    first = graphs.find(STEP, 8, load)[0]
    graphs.find(OTHER, 8, load)
    graphs.drop(STEP)
    assert sizes(graphs) == [(2, 8)] and first.run is None
    again = graphs.find(STEP, 8, load)[0]
    assert again is not first and again.taken == 10, "memory that was freed is filled again, and counts"
    graphs.drop()
    assert graphs.held == [] and graphs.has_room()


def test_one_size_of_a_step_stays_where_the_others_were_only_timed(graphs: Graphs) -> None:
    for step, size in ((STEP, 1), (STEP, 16), (OTHER, 16)):
        graphs.find(step, size, load)
    graphs.drop(STEP, but=1)
    assert sizes(graphs) == [(1, 1), (2, 16)]


def test_one_graph_is_there_under_any_limit(graphs: Graphs) -> None:
    graphs.limit = 1
    for size in (8, 64):
        graphs.find(STEP, size, load)
        assert sizes(graphs) == [(1, size)]


def test_without_a_limit_every_size_has_its_own() -> None:
    graphs = Graphs()
    for size in (64, 1, 8, 4):
        assert graphs.find(STEP, size, load)[0].size == size


@pytest.mark.parametrize("ladder", [(64,), (1, 64), (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64)], ids=len)
def test_a_ladder_is_climbed_from_coarse_to_fine(ladder: tuple[int, ...]) -> None:
    found = list(coarse_to_fine(ladder))
    assert sorted(found) == list(ladder) and found[0] == 64
    assert found[:3] == [64, 1, 8][: len(ladder)]
