"""Control that keeps the mean cost at the requested budget when inputs drift.

A budget holds on average over data like the validation data, on which the operating points were found. Inputs of an
endpoint change, and the cost of a point changes with them. So the excess c/β − 1 of each answered image is added up to a
debt, and the applied budget is the requested one times exp(−gain · debt). This is integral control in the logarithm. It
is also dual ascent on the trade-off, because λ falls as points rise in cost (Balseiro & Gur 2019, "Learning in repeated
auctions with budgets", pace a spend in the same way). While the correction is within its limits, mean spent / asked − 1
= debt / n exactly, and |debt| is at most the log-range of the points divided by the gain. So the mean cost tends to the
requested budget for any inputs, as long as some point reaches that budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

BINS_PER_OCTAVE = 8
GRID = 64
"""Corrections are rounded to steps of exp(1/64), so that requests with one budget share trade-offs and batches."""
GAIN = 1 / 256
"""Change of the log-budget per unit of debt. Corrections lag by up to a queue of images; gain · queue ≤ 1 is stable."""


@dataclass
class BudgetControl:
    """Integral control of the applied budget, with one debt per requested budget (in bins an eighth of an octave wide).

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
        """The nearest budget within the points' range; validation data would cost that much."""
        low, high = self.reach
        return min(max(budget, low), high)

    def applied(self, budget: float) -> float:
        """The budget to route under so that the mean cost becomes `budget`; `budget` itself where it is out of reach."""
        low, high = self.reach
        if not self.enabled or not low < budget < high:
            return budget
        with self._lock:
            correction = -self.gain * self._debt.get(_bin(budget), 0.0)
        return min(max(budget * math.exp(round(correction * GRID) / GRID), low), high)

    def spent(self, budget: float, cost: np.ndarray) -> float:
        """Account for the costs (n,) of answered images under a requested budget; returns the new correction."""
        low, high = self.reach
        if not self.enabled or not low < budget < high:
            return 1.0
        key = _bin(budget)
        with self._lock:
            debt = self._debt.get(key, 0.0) + float(np.sum(cost / budget - 1.0))
            # Debt beyond the points' reach would be paid back long after the inputs have returned to normal.
            debt = min(max(debt, math.log(budget / high) / self.gain), math.log(budget / low) / self.gain)
            self._debt[key] = debt
            return math.exp(-self.gain * debt)

    def label(self, budget: float) -> float:
        """The middle of a budget's bin."""
        return float(2.0 ** (_bin(self.reachable(budget)) / BINS_PER_OCTAVE))


def _bin(budget: float) -> int:
    return round(math.log2(budget) * BINS_PER_OCTAVE)
