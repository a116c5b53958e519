"""Targets that a predictor could be fitted to instead of p̃e by clusters: (S, E), of all considered continuations."""

import numpy as np
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from quee.cache.read import FeatureCache
from quee.settings.targets import Targets
from quee.targets import ClusterTargets, ends_of, future_errors

BATCH = 1024


def p_label_targets(cache: FeatureCache, gate: int) -> np.ndarray:
    """1 - probability of the true label at the end of each continuation."""
    found: np.ndarray = 1 - cache.p_label[:, ends_of(cache.tree, gate)].astype(np.float64)
    return found


def neighbour_targets(cache: FeatureCache, gate: int, neighbours: int) -> np.ndarray:
    """Mean error over the nearest samples, the sample itself included, by standardised features at the node."""
    errors = future_errors(cache, gate).astype(np.float64)
    found, (row, _) = np.empty_like(errors), cache.tree.continuations(gate)
    for index, node in enumerate(cache.tree.nodes_at(gate)):
        x = cache.features[:, node].astype(np.float64)
        x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
        with threadpool_limits(1):  # on one thread: the order of parallel sums would change the last bits
            search = NearestNeighbors(n_neighbors=min(neighbours, len(x)), n_jobs=1).fit(x)
            for start in range(0, len(x), BATCH):
                rows = slice(start, start + BATCH)
                near = search.kneighbors(x[rows], return_distance=False)  # (batch, neighbours)
                found[rows, row == index] = errors[:, row == index][near].mean(axis=1)
    return found


def targets_of(
    kind: str, cache: FeatureCache, settings: Targets, clusters: int, neighbours: int, seed: int
) -> list[np.ndarray]:
    """Targets of kind `clusters`, `labels`, `neighbours` or `p_label` on the predictor split, by gate before the last."""
    gates = range(1, cache.tree.segments)
    if kind == "labels":
        return [future_errors(cache, gate) for gate in gates]
    if kind == "p_label":
        return [p_label_targets(cache, gate) for gate in gates]
    if kind == "neighbours":
        return [neighbour_targets(cache, gate, neighbours) for gate in gates]
    fitted = ClusterTargets(clusters, settings.shrinkage, settings.per_node, settings.seed + seed).fit(cache)
    return [fitted.predict(cache, gate) for gate in gates]
