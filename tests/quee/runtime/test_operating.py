"""Operating points under a limit, for any order of the tree's precisions."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quee.paths import PathTree
from quee.runtime.operating import OperatingPoints, Options, Point

COST = {"w3a3": 0.1, "w4a4": 0.2, "w8a8": 0.9}


@pytest.mark.parametrize("order", permutations(COST))
@given(limit=st.floats(0.01, 2.0), start=st.sampled_from(sorted(COST)))
def test_a_limit_leaves_the_dearest_first_step_within_it(order: tuple[str, ...], limit: float, start: str) -> None:
    tree = PathTree(order, 2)
    costs = np.array([sum(COST[str(p)] for p in path) for path in tree.paths])
    points = OperatingPoints(tree, costs, [Point(0.1, order.index(start), 0.5, 0.9)], 0.5)
    at = points.choose(Options(max_cost=limit))
    found = order[at.low.first]
    allowed = [name for name in COST if COST[name] <= limit]
    if start in allowed:
        assert found == start
    else:
        assert found == (max(allowed, key=lambda name: COST[name]) if allowed else "w3a3")
    assert at.met == bool(allowed)
