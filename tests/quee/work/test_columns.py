"""Columns in blocks: every column in one block, in order, and no block wider than there is room."""

from hypothesis import given
from hypothesis import strategies as st

from quee.work.columns import in_blocks


@given(st.lists(st.integers(1, 30)), st.integers(0, 20), st.integers(1, 120))
def test_every_column_stands_once_and_a_block_fits_unless_one_column_alone_does_not(
    widths: list[int], first: int, room: int
) -> None:
    blocks = in_blocks(widths, first, room)
    assert [column for block in blocks for column in block] == list(range(len(widths)))
    for block in blocks:
        assert len(block) <= 1 or first + sum(widths[column] for column in block) <= room


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(0, 20))
def test_a_table_that_fits_stays_whole(widths: list[int], first: int) -> None:
    assert in_blocks(widths, first, first + sum(widths)) == [range(len(widths))]
