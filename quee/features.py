"""State features φ: a gate's view of a sample, from the exit head's probabilities and the pooled state.

The first four are the uncertainty measures of JEI-DNN's gates: largest probability, entropy in nats, margin between the
two largest, entropy of p²/Σp². The others are the compressed embedding: principal components of the pooled state.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from quee.precision import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from quee.data.preprocessing import Preprocessing
    from quee.exits.heads import ExitHeads
    from quee.network.execution import MultiPrecisionBackbone

UNCERTAINTY = ("max_probability", "entropy", "margin", "sharpened_entropy")


def feature_names(embedding: int) -> list[str]:
    return [*UNCERTAINTY, *(f"embedding_{i}" for i in range(embedding))]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities (n, classes), float64, of exit logits (n, classes): those of `state_features`, bit by bit."""
    return _softmax(logits)[0]


def _softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities and probabilities (n, classes), float64, row by row in a fixed order."""
    log_probs = logits.astype(np.float64)
    log_probs -= np.maximum.reduce(log_probs, axis=1, keepdims=True)
    p = np.exp(log_probs)
    total = np.add.reduce(p, axis=1, keepdims=True)
    log_probs -= np.log(total)
    p /= total
    return log_probs, p


def state_features(
    logits: np.ndarray, embedding: np.ndarray | None = None, measures: Collection[str] = UNCERTAINTY
) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities (n, classes), float64, and state features (n, F), float32, of exit logits (n, classes).

    `embedding` (n, E) follows the measures of uncertainty. Values are computed in double precision and rounded once, row
    by row, so that a sample's features do not depend on the batch. Logarithms are taken once and shared; otherwise the
    features of a small segment would take as long as the segment. Measures of uncertainty that are not among `measures`
    are 0.
    """
    log_probs, p = _softmax(logits)
    found: dict[str, np.ndarray] = {}
    if "entropy" in measures:
        found["entropy"] = -np.add.reduce(p * log_probs, axis=1, keepdims=True)
    if "sharpened_entropy" in measures:  # with q = p²/Σp²: -Σ q log q = log Σp² - 2 Σ q log p
        squared = p * p
        mass = np.add.reduce(squared, axis=1, keepdims=True)
        squared *= log_probs
        found["sharpened_entropy"] = np.log(mass) - 2 * np.add.reduce(squared, axis=1, keepdims=True) / mass
    if "margin" in measures and p.shape[1] > 1:
        p.partition(-2, axis=1)
        largest = p[:, -1:]
        found["margin"] = largest - p[:, -2:-1]
    else:
        largest = np.maximum.reduce(p, axis=1, keepdims=True)
        if "margin" in measures:
            found["margin"] = largest + 1.0  # to the -1 that stands for no second class
    found["max_probability"] = largest
    columns = [found[name] if name in found else np.zeros_like(largest) for name in UNCERTAINTY]
    if embedding is not None:
        columns.append(embedding)
    return log_probs, np.concatenate(columns, axis=1, dtype=np.float32)


class GateView:
    """The computation at a gate. The cache and the running classifier share it."""

    def __init__(self, backbone: "MultiPrecisionBackbone", heads: "ExitHeads", embedding: bool) -> None:
        self.backbone, self.heads, self.embedding = backbone, heads, embedding

    @property
    def names(self) -> list[str]:
        return feature_names(self.heads.embedding if self.embedding else 0)

    @property
    def segments(self) -> int:
        return self.backbone.segments

    @property
    def input(self) -> "Preprocessing":
        """What the backbone takes."""
        return self.backbone.models[Precision("fp32")].input

    def __call__(self, gate: int, precision: Precision, state: "Tensor") -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities (n, classes), float64, and state features (n, F), float32, of states at a gate."""
        return state_features(*self.outputs(gate, precision, state))

    def outputs(self, gate: int, precision: Precision, state: "Tensor") -> tuple[np.ndarray, np.ndarray | None]:
        """The exit head's logits (n, classes) and the compressed embedding (n, E), float32; None without one."""
        seen = self.heads.seen(self.backbone, gate, state)
        logits = self.heads.logits(self.backbone, precision, seen)
        return logits.cpu().numpy(), self.heads.embed(seen) if self.embedding else None

    def bitflops(self, gate: int) -> float:
        """BitFLOPs of the features, without the exit head."""
        return self.heads.embedding_bitflops(gate) if self.embedding else 0.0
