"""Groups of samples that belong together, such as the images of one patient or the frames of one video.

Samples of a group are alike, so no group is divided between splits, and intervals count groups, not samples.
"""

import numpy as np


def numbered(groups: np.ndarray) -> np.ndarray:
    """Numbers (n,) from 0 of the groups (n,), by first appearance."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[place]


def sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums (G, …) of values (n, …) over each group, by first appearance; float64."""
    place = numbered(groups)
    found = np.zeros((int(place.max(initial=-1)) + 1, *values.shape[1:]))
    np.add.at(found, place, values)
    return found


def divides(groups: np.ndarray | None) -> bool:
    """Whether any group has several samples, so that samples are not independent; `groups` (n,), or None without groups."""
    return groups is not None and len(np.unique(groups)) < len(groups)


def folds_of(samples: int, groups: np.ndarray | None, folds: int, seed: int) -> np.ndarray:
    """A fold (samples,) for each sample, equal in size up to one; with groups, equal in their number, and none is divided."""
    random = np.random.default_rng(seed)
    if groups is None:
        return random.permutation(samples) % folds
    group = numbered(groups)
    found: np.ndarray = (random.permutation(int(group.max()) + 1) % folds)[group]
    return found
