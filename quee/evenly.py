"""Evenly spread choices."""

import numpy as np


def evenly(count: int, most: int, nearest: bool = False) -> np.ndarray:
    """At most so many of the indices 0 … `count` − 1, rising, evenly spread from the first to the last: int64.

    Places between two indices go to the lower one, or with `nearest` to the nearest.
    """
    places = np.linspace(0, count - 1, min(most, count))
    found = (places.round() if nearest else places).astype(np.int64)
    return found[np.diff(found, prepend=-1) > 0]
