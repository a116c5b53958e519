"""A stream of images under one budget, which holds on average over the stream even when its inputs shift."""

import math
from collections.abc import Iterator
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from quee.errors import UsageError
from quee.runtime.control import BudgetControl, Spending
from quee.runtime.images import Images, checked
from quee.runtime.operating import Options

if TYPE_CHECKING:
    from quee.runtime.classifier import AdaptiveClassifier, Routed

BLOCK, MOST = 64, 256
"""Least and largest number of images routed under one applied budget. Blocks are counted along the stream, so that its answers
do not depend on how the images are divided among calls. A block is twice the one before while the applied budget is calm,
and begins at a multiple of its size, so that it fits batches."""
CALM = 1 / 16
"""Largest change of the log-budget that is calm."""


class Stream:
    """Routes images in the order they come, steering the applied budget by the costs of those before.

    Safe to call from several threads, one call at a time; images count in the order in which calls get their turn. Many
    callers at once are what `quee serve` and `Scheduler` are for.

    Examples:
        >>> stream = classifier.stream(budget=0.1)  # doctest: +SKIP
        >>> for batch in batches:  # doctest: +SKIP
        ...     routed = stream.route(batch)
        >>> stream.state.mean_cost  # doctest: +SKIP
    """

    def __init__(self, classifier: "AdaptiveClassifier", options: Options) -> None:
        """`options` may hold a budget, by default the bundle's, and a limit for every image; UsageError for others."""
        if any(value is not None for value in (options.trade_off, options.accuracy_loss, options.milliseconds)):
            raise UsageError(
                "a stream holds a mean cost: give budget, and max_cost beside it if every image has a limit"
            )
        self.budget = float(classifier.budget if options.budget is None else options.budget)
        self._classifier, self._options = classifier, replace(options, budget=self.budget)
        self._control = BudgetControl([point.cost for point in classifier.points])
        self._now = self._options
        self._costs: list[np.ndarray] = []
        self._block, self._seen = BLOCK, 0
        self._turn = Lock()

    @property
    def state(self) -> Spending:
        """What was spent so far, the drift, and the budget that is applied; up to the last whole block."""
        return self._control.state(self.budget)

    def route(self, images: Images, *, pixels: str = "uint8") -> "Routed":
        """Route the next images, as `AdaptiveClassifier.route` takes them."""
        return self._route(self._classifier.prepare(images, pixels))

    def route_prepared(self, x: np.ndarray) -> "Routed":
        """`route` for prepared images (n, c, h, w), float32."""
        return self._route(checked(x, self._classifier.transform))

    def predict(self, images: Images, *, pixels: str = "uint8") -> np.ndarray:
        """Class indices (n,) of the next images."""
        return self.route(images, pixels=pixels).label

    def _route(self, x: np.ndarray) -> "Routed":
        with self._turn:
            parts = list(self._blocks(x))
            return parts[0].joined(parts)

    def _blocks(self, x: np.ndarray) -> Iterator["Routed"]:
        start = 0
        while start < len(x):
            left = self._block - sum(map(len, self._costs))
            routed = self._classifier.run(x[start : start + left], self._now)
            self._costs.append(routed.cost)
            start += left
            if sum(map(len, self._costs)) == self._block:
                self._steer()
            yield routed

    def _steer(self) -> None:
        """Account for a whole block and choose the budget of the next."""
        expected = self._classifier.operating(self._now).expected.cost
        after = self._control.spent(self.budget, np.concatenate(self._costs), expected)
        calm = self._now.budget is not None and abs(math.log(after.applied / self._now.budget)) <= CALM
        self._seen += self._block
        if not calm:
            self._block = BLOCK
        elif 2 * self._block <= MOST and self._seen % (2 * self._block) == 0:
            self._block *= 2
        self._now, self._costs = replace(self._options, budget=after.applied), []
