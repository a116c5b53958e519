"""Keeps the budget spent at the budget asked when inputs drift.

A budget holds on average over data like the validation data, where the operating points were found. Behind an endpoint
inputs change, and what a point costs changes with them. So each answered image's excess c/β − 1 is added up, and the
budget applied is the one asked times exp(−gain · debt): integral control in the logarithm, which is dual ascent on the
trade-off, since rising points fall in λ (Balseiro & Gur 2019, "Learning in repeated auctions with budgets", pace a spend
likewise). While the correction is not at its limits, mean spent / asked − 1 = debt / n exactly, and |debt| is bounded by
the log-range of the points over the gain: the mean spent tends to the budget asked whatever the inputs, as long as
some point reaches it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

BINS_PER_OCTAVE = 8
GRID = 64
"""Corrections are rounded to exp(1/64): requests of one budget share their trade-offs, and so run in one batch."""
GAIN = 1 / 256
"""Log-budget per image's worth of excess. Answers come up to a queue later than what they correct: gain · queue ≤ 1 is stable."""


@dataclass
class BudgetControl:
    """Integral control of the budget applied, one debt per asked budget (in bins an eighth of an octave wide).

    `costs` are the operating points' costs; budgets beyond them are not pursued.
    """

    costs: Sequence[float]
    gain: float = GAIN
    enabled: bool = True
    _debt: dict[int, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def reach(self) -> tuple[float, float]:
        return min(self.costs), max(self.costs)

    def reachable(self, budget: float) -> float:
        """The nearest budget that the points span: what validation data would cost."""
        low, high = self.reach
        return min(max(budget, low), high)

    def applied(self, budget: float) -> float:
        """The budget to route under so that `budget` is spent. The budget itself where it is out of reach."""
        low, high = self.reach
        if not self.enabled or not low < budget < high:
            return budget
        with self._lock:
            correction = -self.gain * self._debt.get(_bin(budget), 0.0)
        return min(max(budget * math.exp(round(correction * GRID) / GRID), low), high)

    def spent(self, budget: float, cost: np.ndarray) -> float:
        """Account for answered images' costs (n,) under an asked budget; the correction from here on."""
        low, high = self.reach
        if not self.enabled or not low < budget < high:
            return 1.0
        key = _bin(budget)
        with self._lock:
            debt = self._debt.get(key, 0.0) + float(np.sum(cost / budget - 1.0))
            # Debt beyond what the points reach would still be paid back long after the inputs are as before.
            debt = min(max(debt, math.log(budget / high) / self.gain), math.log(budget / low) / self.gain)
            self._debt[key] = debt
            return math.exp(-self.gain * debt)

    def label(self, budget: float) -> float:
        """The middle of the bin that a budget's debt is kept in."""
        return float(2.0 ** (_bin(self.reachable(budget)) / BINS_PER_OCTAVE))


def _bin(budget: float) -> int:
    return round(math.log2(budget) * BINS_PER_OCTAVE)
