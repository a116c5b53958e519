"""The 1,797 digits that come with scikit-learn, 8×8 pixels of 0 to 16."""

import numpy as np

from quee.data import DATASETS
from quee.data.importers.arrays import array_shard
from quee.data.importers.base import Importer, Plan, Source
from quee.data.walk import shown
from quee.errors import UsageError


def plan(source: Source, _: object) -> Plan:
    """Values are scaled to 0..255; `round(value · 16 / 255)` gives them back. Raises UsageError where a source is given."""
    if source.given is not None:
        raise UsageError(f"the digits come with scikit-learn; leave out {shown(source.given)}")
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    return Plan([array_shard("train", pixels, labels, DATASETS["digits"].classes, "scikit-learn's digits")])


IMPORTER = Importer(lambda source: source.name == "digits", plan)
