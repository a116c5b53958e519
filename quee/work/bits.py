"""Mixing of integers."""

import numpy as np


def splitmix64(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the input changes half of the output's bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
