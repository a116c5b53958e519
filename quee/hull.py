"""The upper convex hull of points of cost and accuracy."""

import numpy as np


def hull(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Indices of the upper convex hull of points (P,), by rising cost, from the cheapest to the most accurate."""
    order = np.lexsort((-accuracy, cost))
    kept: list[int] = []
    for index in order:
        if kept and accuracy[index] <= accuracy[kept[-1]]:
            continue
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            rise = (accuracy[b] - accuracy[a]) * (cost[index] - cost[a])
            if rise > (accuracy[index] - accuracy[a]) * (cost[b] - cost[a]):
                break
            kept.pop()
        kept.append(int(index))
    return np.array(kept)
