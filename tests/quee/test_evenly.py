import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quee.evenly import evenly


@given(st.integers(0, 5000), st.integers(1, 600), st.booleans())
def test_indices_rise_from_the_first_to_the_last_with_gaps_that_differ_by_one(
    count: int, most: int, nearest: bool
) -> None:
    found = evenly(count, most, nearest)
    assert found.dtype == np.int64 and len(found) == min(count, most)
    if len(found) > 1:
        gaps = np.diff(found)
        assert (found[0], found[-1]) == (0, count - 1) and gaps.min() >= 1 and np.ptp(gaps) <= 1
