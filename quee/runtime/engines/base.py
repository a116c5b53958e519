"""The interface of an engine: it executes a segment at a precision, with the exit head and features of its gate.

The exit head and the embedding are part of a segment's graph, because one call costs less than three.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quee.features import UNCERTAINTY, log_softmax, state_features
from quee.precision import Precision


@dataclass(slots=True)
class Step:
    """A segment's results on n samples. The arrays belong to the caller; no later call overwrites them."""

    state: np.ndarray | None
    """State (n, …), float32, the input of the next segment; None after the last."""
    logits: np.ndarray
    """(n, classes), floating point, of the exit head at the segment's gate."""
    embedding: np.ndarray | None
    """(n, E), float32: the compressed embedding; None where state features have none."""

    def take(self, rows: np.ndarray | slice) -> "Step":
        """The answers of some samples, without their states."""
        return Step(None, self.logits[rows], None if self.embedding is None else self.embedding[rows])

    @property
    def log_probs(self) -> np.ndarray:
        """(n, classes), float64, of the exit head; computed at every call."""
        return log_softmax(self.logits)

    @property
    def features(self) -> np.ndarray:
        """(n, F), float32: state features of the exit head, as `GateView` computes them; computed at every call."""
        return self.seen()[1]

    def seen(self, measures: Collection[str] = UNCERTAINTY) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities and state features, which take one computation; measures of uncertainty not named are 0."""
        return state_features(self.logits, self.embedding, measures)


def graph_name(segment: int, precision: Precision) -> str:
    """Name of the file with a segment's exported graph."""
    return f"{precision}.segment{segment}.onnx"


class Engine(Protocol):
    """Executes segments. Safe to call from several threads."""

    name: str

    @property
    def version(self) -> str:
        """Version of the library that executes."""
        ...

    @property
    def threads(self) -> int: ...

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        """Run a segment, counted from 1, on prepared images (n, c, h, w) or the state before it, float32, n ≥ 1."""
        ...

    def executed(self, precision: Precision) -> str:
        """The executed arithmetic: `fp32`, `bf16`, `int8`, …; with ` (emulated)` where no kernel executes the precision."""
        ...


class Reference(Protocol):
    """The reference that engines are compared with."""

    def before(self, segment: int) -> np.ndarray:
        """States (n, …) before a segment, or images, float32."""
        ...

    def check_step(self, engine: Engine, segment: int, precision: Precision, batch: int | None = None) -> object:
        """Raise DisagreementError where an engine's step differs from the reference's by more than is allowed.

        The engine gets `batch` images at a time, or all at once.
        """
        ...
