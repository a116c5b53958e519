"""State features φ: what a gate sees of a sample, from its exit head's probabilities and its pooled state.

The first four are the uncertainty measures of JEI-DNN's gates: largest probability, entropy in nats, margin between the
two largest, entropy of p²/Σp². The others are the compressed embedding: principal components of the pooled state.
"""

import numpy as np
from scipy.special import log_softmax, xlogy
from torch import Tensor

from quee.execution import MultiPrecisionBackbone
from quee.exits import ExitHeads
from quee.precision import Precision

UNCERTAINTY = ("max_probability", "entropy", "margin", "sharpened_entropy")


def feature_names(embedding: int) -> list[str]:
    return [*UNCERTAINTY, *(f"embedding_{i}" for i in range(embedding))]


def uncertainty(log_probs: np.ndarray) -> np.ndarray:
    """Log probabilities (n, classes), float64, to the uncertainty features (n, 4)."""
    p = np.exp(log_probs)
    top = np.partition(p, -2, axis=1)[:, -2:]
    squared = p**2
    squared /= squared.sum(axis=1, keepdims=True)
    entropy, sharpened = -(p * log_probs).sum(axis=1), -xlogy(squared, squared).sum(axis=1)
    return np.stack([top[:, 1], entropy, top[:, 1] - top[:, 0], sharpened], axis=1)


class GateView:
    """What is computed at a gate, alike when the cache is built and when the classifier runs."""

    def __init__(self, backbone: MultiPrecisionBackbone, heads: ExitHeads, embedding: bool) -> None:
        self.backbone, self.heads, self.embedding = backbone, heads, embedding

    @property
    def names(self) -> list[str]:
        return feature_names(self.heads.embedding if self.embedding else 0)

    def __call__(self, gate: int, precision: Precision, state: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities (n, classes), float64, and state features (n, F), float32, of states at a gate.

        Computed exactly, or in double precision and rounded once, so that they do not depend on the batch.
        """
        pooled = self.heads.pooled(self.backbone, state)
        logits = self.heads.logits(self.backbone, gate, precision, state, pooled)
        log_probs = log_softmax(logits.numpy().astype(np.float64), axis=1)
        columns = [uncertainty(log_probs)]
        if self.embedding:
            columns.append(self.heads.heads[gate - 1].embed(pooled))
        return log_probs, np.concatenate(columns, axis=1).astype(np.float32)

    def bitflops(self, gate: int) -> float:
        """BitFLOPs spent on features beyond the exit head."""
        return self.heads.embedding_bitflops(gate) if self.embedding else 0.0
