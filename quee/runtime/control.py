"""Control that keeps the mean cost within the requested budget when inputs drift; it needs no labels.

A budget holds on average over data like the validation data, on which the operating points were found. Inputs change,
and the cost of a point changes with them. Two numbers per budget follow from the costs of the images answered:

- drift: a running mean of cost over what validation data cost at the budget applied;
- debt: the sum of cost/budget − 1.

The applied budget is the requested one times exp(−gain · debt) / drift, and never above the requested one. The drift
answers a change within `MEMORY` images; it is an estimate of the inputs, not a feedback of the error, so that answers
which come a queue later do not make it swing. The debt pays back what was spent until then. It is integral control in
the logarithm, and dual ascent on the trade-off, because λ falls as points rise in cost (Balseiro & Gur 2019, "Learning
in repeated auctions with budgets", pace a spend in the same way). A budget is a ceiling: inputs that cost less than
validation data are not made dearer, and what they leave is kept for later images up to a credit.
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
"""Change of the log-budget per unit of debt. It is less where images wait: corrections lag by a queue, and a gain of
1 / (2 · queue) does not swing."""
MEMORY = 64
"""Images over which the drift is averaged."""
CREDIT = 32.0
"""Most that may be saved for later images, in budgets of one image: 3 % of what 1,000 images may cost."""


@dataclass(frozen=True)
class Spending:
    """What control knows of one budget."""

    images: int = 0
    """Images answered under this budget."""
    mean_cost: float = 0.0
    """Of all images answered under this budget."""
    drift: float = 1.0
    """Cost over that of validation data at the budget applied; running mean."""
    debt: float = 0.0
    """Sum of cost/budget − 1 within the reach of control; below 0: saved."""
    applied: float = math.nan
    """The budget under which the next image is routed."""


@dataclass
class _Account:
    """Sums of one budget."""

    images: int = 0
    total: float = 0.0
    drift: float = 1.0
    debt: float = 0.0


@dataclass
class BudgetControl:
    """Control of the applied budget, with one account per requested budget (in bins an eighth of an octave wide).

    `costs` are the operating points' costs; budgets beyond them are not pursued. Safe to call from several threads.
    """

    costs: Sequence[float]
    enabled: bool = True
    gain: float = GAIN
    _accounts: dict[int, _Account] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def reach(self) -> tuple[float, float]:
        return min(self.costs), max(self.costs)

    def reachable(self, budget: float) -> float:
        """The nearest budget within the points' range; validation data would cost that much."""
        low, high = self.reach
        return min(max(budget, low), high)

    def applied(self, budget: float, waiting: int = 0) -> float:
        """The budget to route under so that the mean cost stays within `budget`; `waiting` images are not answered yet."""
        with self._lock:
            return self._applied(budget, self._accounts.get(_bin(self.reachable(budget)), _Account()), waiting)

    def spent(self, budget: float, cost: np.ndarray, expected: float) -> Spending:
        """Account for the costs (n,) of answered images under a requested budget.

        `expected` is what validation data cost under the budget applied to these images.
        """
        low, _ = self.reach
        with self._lock:
            account = self._accounts.setdefault(_bin(self.reachable(budget)), _Account())
            account.images += len(cost)
            account.total += float(np.sum(cost))
            keep = (1 - 1 / MEMORY) ** np.arange(len(cost) - 1, -1, -1)
            fresh = float(np.sum(keep * cost)) / expected / MEMORY
            account.drift = account.drift * (1 - 1 / MEMORY) ** len(cost) + fresh
            debt = account.debt + float(np.sum(cost / budget - 1.0))
            # Debt beyond the points' reach would be paid back long after the inputs have returned to normal.
            account.debt = min(max(debt, -CREDIT), max(math.log(budget / low), 0.0) / self.gain)
            return self._spending(budget, account)

    def state(self, budget: float) -> Spending:
        """What is known of a budget."""
        with self._lock:
            return self._spending(budget, self._accounts.get(_bin(self.reachable(budget)), _Account()))

    def label(self, budget: float) -> float:
        """The middle of a budget's bin."""
        return float(2.0 ** (_bin(self.reachable(budget)) / BINS_PER_OCTAVE))

    def _applied(self, budget: float, account: _Account, waiting: int = 0) -> float:
        low, _ = self.reach
        if not self.enabled or budget <= low:
            return budget
        gain = min(self.gain, 1 / (2 * max(waiting, 1)))
        correction = -gain * account.debt - math.log(account.drift)
        return min(max(budget * math.exp(round(correction * GRID) / GRID), low), budget)

    def _spending(self, budget: float, account: _Account) -> Spending:
        mean = account.total / account.images if account.images else 0.0
        return Spending(account.images, mean, account.drift, account.debt, self._applied(budget, account))


def _bin(budget: float) -> int:
    return round(math.log2(budget) * BINS_PER_OCTAVE)
