"""A budget is a ceiling: which operating point serves it, in `evaluate` and when deployed.

Of the points within a budget the cheapest is taken that loses at most `MOST` points of accuracy with 95 % confidence on
validation, so that nothing is spent where spending more does not show. What it loses is counted against the dearest of them,
and cheaper points are tried from there down until one fails (a fixed sequence, so that no allowance for trying many is
needed). The most accurate point on validation would be another reference, but the best of a hundred noisy points is better
there than elsewhere: taking it cost digits up to a point of test accuracy (docs/evaluation.md).

Where the first point beyond the budget would be taken for itself, it is mixed with the point within, so that the mean cost is
the budget.
"""

from collections.abc import Callable

import numpy as np

from quee.intervals import ONE_SIDED, half_width

MOST = 0.1
"""Points of accuracy that the point taken may lose against the dearest within the budget."""
ROUNDING = 1e-9


def taken(errors: np.ndarray, last: int, groups: np.ndarray | None = None) -> int:
    """The point that serves where `last` is the dearest within the budget; errors (V, P) of validation samples, float, points
    by rising cost, samples in `groups` (V,).
    """
    found = last
    while found > 0:
        lost = errors[:, found - 1] - errors[:, last]
        if not 100 * (lost.mean() + half_width(lost, ONE_SIDED, groups)) <= MOST:
            break
        found -= 1
    return found


def served(costs: np.ndarray, take: Callable[[int], int], budget: float) -> tuple[int, int, float, bool]:
    """Points `low` and `high` that serve a budget, the share of samples at `high`, and whether the budget can be met.

    `costs` (P,) rise; `take(last)` is the point taken where `last` is the dearest within the budget. Below the cheapest
    point, that one is taken and the budget is not met.
    """
    last = int(np.searchsorted(costs, budget * (1 + ROUNDING), side="right")) - 1
    if last < 0:
        return 0, 0, 0.0, False
    low, beyond = take(last), last + 1
    if beyond == len(costs) or take(beyond) != beyond:
        return low, low, 0.0, True
    share = float((budget - costs[low]) / (costs[beyond] - costs[low]))
    return low, beyond, max(share, 0.0), True
