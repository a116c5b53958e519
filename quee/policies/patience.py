"""Patience (PABEE, Zhou et al. 2020): exit once so many gates in a row agree with the gate before."""

import numpy as np

from quee.policies.sweep import Setting
from quee.policies.thresholds import Arrays, Thresholds, joined, points_of, uniform_sequences
from quee.work.lookup import looked_up


class Patience(Thresholds):
    """Every number of agreements at every uniform precision of the tree.

    It carries the class that the gate answered, and how many gates in a row have agreed by then.
    """

    carries = 2
    measures = ("max_probability",)

    def carry(self, node: np.ndarray, before: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, None]:
        agrees = (looked_up(self.tree.gate, node) > 1) & (before[:, 0] == said)
        return np.stack([said, np.where(agrees, before[:, 1] + 1, 0)], axis=1), None

    def score(self, features: np.ndarray) -> np.ndarray:
        found: np.ndarray = features[..., -1]
        return found

    @classmethod
    def points(cls, setting: Setting) -> Arrays:
        gates = setting.tree.segments
        needed = np.arange(1.0, max(gates, 2))  # no gate before the last sees as many as the last number
        threshold = np.repeat(needed[:, None], gates - 1, axis=1)
        return joined([points_of(sequence, threshold, needed) for sequence, _ in uniform_sequences(setting)])
