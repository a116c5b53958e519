"""The 1,797 digits that come with scikit-learn, 8×8 pixels of 0 to 16."""

import numpy as np

from quee.data import DATASETS
from quee.data.importers import Plan
from quee.data.importers.arrays import array_shard


def plan() -> Plan:
    """Values are scaled to 0..255; `round(value · 16 / 255)` gives them back."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    return Plan([array_shard("train", pixels, labels, DATASETS["digits"].classes, "scikit-learn's digits")])
