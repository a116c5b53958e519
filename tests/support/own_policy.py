"""A policy as its author would write it: one file, of which the last line is what the registry is given."""

import numpy as np

from quee.policies.methods import Method
from quee.policies.thresholds import Thresholds


class Margin(Thresholds):
    """Leaves where the two largest probabilities are further apart than the threshold."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return self.column(features, "margin")


METHOD = Method("margin", "baseline", policy=Margin)
