"""Targets: error probabilities of paths, estimated by clustering state features (the paper's p̃e).

K-means runs on the standardised state features of the predictor split, per node. At a gate with many nodes it runs over
all of them at once, and means are kept per cluster and prefix. p̃e(k, π) = (Σe + α·ē_π) / (n_k + α) is the error rate of
path π over the samples of cluster k, shrunk toward π's mean error.
"""

from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from quee.cache.read import FeatureCache
from quee.paths import PathTree

RESTARTS = 2
"""Initialisations of K-means; the best is kept."""


@dataclass
class NodeClusters:
    """The clusters of one node."""

    mean: np.ndarray
    """(F,) means of the clustered features."""
    scale: np.ndarray
    """(F,) standard deviations."""
    centres: np.ndarray
    """(K, F), standardised."""
    probability: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """p̃e (K, suffixes); NaN where a suffix leaves the considered paths."""

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Cluster of each sample (S,)."""
        x = (features.astype(np.float64) - self.mean) / self.scale
        distance = (self.centres**2).sum(axis=1) - 2 * x @ self.centres.T
        return distance.argmin(axis=1)


def ends_of(tree: PathTree, gate: int) -> np.ndarray:
    """(E,) the node at the end of every considered continuation of a gate's nodes, in the order of `continuations`."""
    found: np.ndarray = tree.extensions(gate)[tree.continuations(gate)]
    return found


def future_errors(cache: FeatureCache, gate: int) -> np.ndarray:
    """Errors of every considered continuation of a gate's nodes: (S, E) bool."""
    found: np.ndarray = cache.error[:, ends_of(cache.tree, gate)]
    return found


def spread(tree: PathTree, gate: int, values: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Values (S, E) of continuations as rows (S · nodes at the gate, suffixes), float64; NaN: not considered.

    `rows` (n,) are the ones to make, by default all. Sample follows sample, with a row for each of the gate's nodes.
    """
    shape = tree.extensions(gate).shape
    known = tree.continuations(gate)
    if rows is None:
        found = np.full((len(values), *shape), np.nan)
        found[:, *known] = values
        return found.reshape(-1, shape[1])
    place = np.full(shape, values.shape[1])
    place[known] = np.arange(values.shape[1])
    padded = np.column_stack(
        [values, np.full(len(values), np.nan)]
    )  # the last column stands for what is not considered
    sample, node = np.divmod(rows, shape[0])
    taken: np.ndarray = padded[sample[:, None], place[node]]
    return taken


class ClusterTargets:
    """Estimator of p̃e; `fit` on the predictor split's cache.

    Attributes after `fit`: `nodes_`, the clusters by node id.
    """

    def __init__(self, clusters: int, shrinkage: float = 4.0, per_node: int = 64, seed: int = 0) -> None:
        self.clusters, self.shrinkage, self.per_node, self.seed = clusters, shrinkage, per_node, seed

    def fit(self, cache: FeatureCache) -> "ClusterTargets":
        import sklearn.cluster  # noqa: F401  two seconds, which loading a bundle should not wait for; before the limit

        # The order of parallel sums would decide the last bits. The limit is set once, because setting it searches all libraries.
        with threadpool_limits(1):
            return self._fit(cache)

    def _fit(self, cache: FeatureCache) -> "ClusterTargets":
        self.tree: PathTree = cache.tree
        self.nodes_: dict[int, NodeClusters] = {}
        for gate in range(1, self.tree.segments):
            nodes = self.tree.nodes_at(gate)
            (row, column), errors = self.tree.continuations(gate), future_errors(cache, gate)
            suffixes, pooled = len(self.tree.suffixes(gate)), None
            if len(nodes) > self.per_node:
                pooled = self._cluster(cache.features[:, nodes].reshape(-1, cache.features.shape[2]))
            for index, node in enumerate(nodes):
                own = pooled or self._cluster(cache.features[:, node])
                clusters = NodeClusters(own.mean, own.scale, own.centres)
                label = clusters.assign(cache.features[:, node])
                known = np.full((len(cache), suffixes), np.nan)
                known[:, column[row == index]] = errors[:, row == index]
                clusters.probability = self._probability(label, known, len(own.centres))
                self.nodes_[int(node)] = clusters
        return self

    def _cluster(self, features: np.ndarray) -> NodeClusters:
        from sklearn.cluster import KMeans

        x = features.astype(np.float64)
        mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        x = (x - mean) / scale
        clusters = min(self.clusters, _different(x, self.clusters))
        fitted = KMeans(clusters, n_init=RESTARTS, random_state=self.seed).fit(x)
        return NodeClusters(mean, scale, fitted.cluster_centers_)

    def _probability(self, label: np.ndarray, errors: np.ndarray, clusters: int) -> np.ndarray:
        """p̃e (K, suffixes) from each sample's cluster (S,) and errors (S, suffixes)."""
        member = np.eye(clusters)[label]  # (S, K)
        count = member.sum(axis=0)[:, None]
        shrunk = member.T @ errors + self.shrinkage * errors.mean(axis=0)
        return shrunk / np.maximum(count + self.shrinkage, 1e-12)

    def predict(self, cache: FeatureCache, gate: int) -> np.ndarray:
        """p̃e of samples at every considered continuation of a gate's nodes: (S, E)."""
        row, column = self.tree.continuations(gate)
        found = np.empty((len(cache), len(row)))
        for index, node in enumerate(self.tree.nodes_at(gate)):
            own, clusters = row == index, self.nodes_[int(node)]
            found[:, own] = clusters.probability[:, column[own]][clusters.assign(cache.features[:, node])]
        return found


def _different(x: np.ndarray, most: int) -> int:
    """Number of different rows of x (n, F), counted until there are `most`: sorting all rows of a large gate takes gigabytes."""
    some = most
    while True:
        found = len(np.unique(x[:some], axis=0))
        if found >= most or some >= len(x):
            return found
        some *= 2


def cluster_rows(targets: ClusterTargets, cache: FeatureCache) -> list[dict[str, float | int | str]]:
    """Per node and cluster: samples, mean probability of the true label, entropy and error; `rank` by falling probability.

    Clusters without samples are left out.
    """
    entropy = cache.features[:, :, cache.description["feature_names"].index("entropy")]
    rows: list[dict[str, float | int | str]] = []
    for node, clusters in targets.nodes_.items():
        label = clusters.assign(cache.features[:, node])
        found = [(k, label == k) for k in range(len(clusters.centres)) if (label == k).any()]
        found.sort(key=lambda own: -float(cache.p_label[own[1], node].mean(dtype=np.float64)))
        for rank, (cluster, members) in enumerate(found):
            means = {
                "entropy": entropy[members, node], "error": cache.error[members, node],
                "p_label": cache.p_label[members, node],
            }  # fmt: skip
            rows.append(
                {
                    "cluster": cluster,
                    **{name: float(values.mean(dtype=np.float64)) for name, values in means.items()},
                    "gate": int(cache.tree.gate[node]),
                    "node": node,
                    "path": cache.tree.name(node),
                    "rank": rank,
                    "samples": int(members.sum()),
                }
            )
    return rows


def calibration_error(predicted: np.ndarray, realised: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error with equal-width bins; NaN entries are left out. Arrays of one shape."""
    known = np.isfinite(predicted) & np.isfinite(realised)
    p, e = predicted[known], realised[known]
    if not p.size:
        return 0.0
    index = np.clip((p * bins).astype(int), 0, bins - 1)
    gap = np.bincount(index, weights=p - e, minlength=bins)
    return float(np.abs(gap).sum() / p.size)
