"""An engine that answers from a feature cache, so that the executor runs without a network."""

from collections.abc import Collection

import numpy as np

from quee.cache.read import FeatureCache
from quee.features import UNCERTAINTY
from quee.precision import Precision
from quee.runtime.engines.base import Step


class Cached(Step):
    """A step whose state features, all of them, are in place of the embedding, and log-probabilities in place of logits."""

    def seen(self, measures: Collection[str] = UNCERTAINTY) -> tuple[np.ndarray, np.ndarray]:
        assert self.embedding is not None
        features = self.embedding.copy()
        features[:, [i for i, name in enumerate(UNCERTAINTY) if name not in measures]] = np.nan
        return self.logits, features

    def take(self, rows: np.ndarray | slice) -> Step:
        assert self.embedding is not None
        return Cached(None, self.logits[rows], self.embedding[rows])

    @property
    def log_probs(self) -> np.ndarray:
        return self.logits


class Replayed:
    """A state (n, 2) holds a sample's row in the cache and its node."""

    name, version, threads = "replayed", "1", 1

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self.states = np.stack([np.arange(len(cache)), np.full(len(cache), -1)], axis=1).astype(np.float32)

    def executed(self, precision: Precision) -> str:
        return str(precision)

    def run(self, segment: int, precision: Precision, state: np.ndarray) -> Step:
        tree = self.cache.tree
        row, node = state.astype(np.int64).T
        node = tree.children[node, tree.precisions.index(precision)]
        last = segment == tree.segments
        after = None if last else np.stack([row, node], axis=1).astype(np.float32)
        assert self.cache.head_log_probs is not None
        log_probs = self.cache.head_log_probs[row, node].astype(np.float64)
        log_probs[np.arange(len(row)), self.cache.prediction[row, node]] += 1e-9  # of equal classes the answered one
        return Cached(after, log_probs, self.cache.features[row, node])
