"""The answer of a gate: the geometric ensemble of the exit heads visited.

After ZTW (Zero Time Waste, Wołczyk et al. 2021, arXiv 2106.05409). At a node of gate j, behind heads 1 … j,

    log q = Σ_{i ≤ j} w_i log p_i + b − log Z,   w_i ≥ 0, b one number per class.

Every node of the tree has weights of its own, fitted by maximum likelihood on samples that fitted no head. A penalty pulls
them toward the gate's own head alone, so that few samples change little and none change nothing. ZTW also gives a head
the logits of the head before it; our heads stay as they are (`benchmarks/exits_behind_frozen.py` measures such heads).

Log-probabilities are rounded to half precision before they are mixed, because the feature cache keeps them so. Everything
is computed row by row in a fixed order. So the simulation on a cache and the runtime agree in every bit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quee.cost import FLOAT_BITS, bitflops
from quee.errors import IntegrityError
from quee.features import UNCERTAINTY, state_features
from quee.paths import PathTree
from quee.work.io import read_tensors
from quee.work.lookup import looked_up

RIDGE = 3.0
"""Strength R of the penalty ½ · R · (Σ (w − w₀)² + Σ b²) beside the summed cross-entropy in nats; w₀ is the own head alone."""
MOST = 4096
"""Most samples that an ensemble is fitted on; more are drawn from."""
STEPS, TOLERANCE = 50, 1e-7
"""Most steps of a fit; it ends where no slope that may move is larger than so many nats per sample."""
ENOUGH, LEAST_SHARE = 1e-4, 1e-6
"""Armijo's rule: the loss falls by at least this share of what the slope promises; and the least share of a step tried."""
FILE = "ensembles.safetensors"


def as_cached(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities as the feature cache keeps them: float16, −60000 or more."""
    found: np.ndarray = np.maximum(log_probs, -60000).astype(np.float16)
    return found


def own_head(heads: int) -> np.ndarray:
    """Weights (heads,) of the last head alone."""
    return np.append(np.zeros(heads - 1), 1.0)


@dataclass(frozen=True)
class Ensemble:
    """The ensemble at one gate: `weight` (j,) by head so far, `bias` (classes,)."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(cls, log_probs: np.ndarray, label: np.ndarray, toward: np.ndarray, ridge: float) -> "Ensemble":
        """From log-probabilities (n, j, classes) of the heads so far, and labels (n,); `toward` (j,) are the weights w₀.

        Newton's method with w projected on w ≥ 0 (Bertsekas, Projected Newton Methods, 1982, with the Armijo rule): weights
        at 0 that the slope holds there stay; the others take the step, halved until the loss falls enough.
        """
        rows, heads, classes = log_probs.shape
        log_probs = np.ascontiguousarray(log_probs.transpose(1, 0, 2)).transpose(1, 0, 2)  # head by head in memory
        start = np.concatenate([toward, np.zeros(classes)])
        least = np.concatenate([np.zeros(heads), np.full(classes, -np.inf)])
        each, values = np.arange(rows), start

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            q = cls(values[:heads], values[heads:])(log_probs)
            return float(-q[each, label].sum() + ridge / 2 * ((values - start) ** 2).sum()), q

        at, q = loss(values)
        for _ in range(STEPS):
            slope, curvature = _derivatives(log_probs, label, np.exp(q))
            slope += ridge * (values - start)
            curvature[np.diag_indices(len(curvature))] += ridge
            free = np.flatnonzero((values > least) | (slope < 0))
            if np.abs(slope[free]).max(initial=0.0) <= TOLERANCE * rows:
                break
            step = np.zeros_like(values)
            step[free] = np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
            share = 1.0
            while share > LEAST_SHARE:
                tried = np.maximum(values - share * step, least)
                found, q_tried = loss(tried)
                if found <= at - ENOUGH * float(slope @ (values - tried)):
                    break
                share /= 2
            else:
                break  # the loss cannot fall further in double precision
            values, at, q = tried, found, q_tried
        return cls(values[:heads], values[heads:])

    def __call__(self, log_probs: np.ndarray) -> np.ndarray:
        """Log-probabilities (n, classes) of the ensemble."""
        return normalised(mixed(log_probs, self.weight[None], self.bias[None]))


def _derivatives(log_probs: np.ndarray, label: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope (j + classes,) and curvature (j + classes, j + classes) of the summed cross-entropy, by weights and biases.

    `log_probs` (n, j, classes) are those of the heads; `q` (n, classes) are the ensemble's probabilities.
    """
    rows, heads, classes = log_probs.shape
    by_head = log_probs.transpose(1, 0, 2)
    weighted = q * by_head  # (j, n, classes)
    mean = weighted.sum(axis=2)  # (j, n)
    slope = np.concatenate([mean.sum(axis=1) - by_head[:, np.arange(rows), label].sum(axis=1), q.sum(axis=0)])
    slope[heads:] -= np.bincount(label, minlength=classes)
    curvature = np.empty((heads + classes, heads + classes))
    curvature[:heads, :heads] = weighted.reshape(heads, -1) @ by_head.reshape(heads, -1).T - mean @ mean.T
    curvature[:heads, heads:] = weighted.sum(axis=1) - mean @ q
    curvature[heads:, :heads] = curvature[:heads, heads:].T
    curvature[heads:, heads:] = np.diag(q.sum(axis=0)) - q.T @ q
    return slope, curvature


def normalised(z: np.ndarray) -> np.ndarray:
    """Log-probabilities (n, classes) from logits z (n, classes), which are changed."""
    z -= z.max(axis=1, keepdims=True)
    found: np.ndarray = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return found


def mixed(log_probs: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Σ w_i log p_i + b (n, classes), float64, of log-probabilities (n, j, classes), weights (n, j) and biases (n, classes).

    Head by head, without a matrix product, so that a row does not depend on the others.
    """
    z = bias + weight[:, 0, None] * log_probs[:, 0]
    for head in range(1, log_probs.shape[1]):
        z += weight[:, head, None] * log_probs[:, head]
    return z


def ensemble_bitflops(heads: int, classes: int) -> float:
    """BitFLOPs of an ensemble: one multiply-add per head and class, in floating point."""
    return bitflops(heads * classes, (FLOAT_BITS, FLOAT_BITS))


@dataclass(frozen=True)
class Ensembles:
    """An ensemble per node of a tree of N nodes and L segments."""

    weight: np.ndarray
    """(N, L) by head on the way to the node; 0 behind its gate."""
    bias: np.ndarray
    """(N, classes)"""

    @classmethod
    def fit(cls, tree: PathTree, log_probs: np.ndarray, label: np.ndarray, ridge: float = RIDGE) -> "Ensembles":
        """From log-probabilities (n, N, classes) of the nodes' heads and labels (n,); without samples, own heads alone."""
        weight, bias = np.zeros((len(tree), tree.segments)), np.zeros((len(tree), log_probs.shape[2]))
        kept = np.sort(np.random.default_rng(0).permutation(len(label))[:MOST])
        log_probs, label = log_probs[kept], label[kept]
        for node in range(len(tree)):
            visited = tree.lineage(node)
            heads = len(visited)
            weight[node, :heads] = own_head(heads)
            if len(label):
                own = log_probs[:, visited].astype(np.float64)
                found = Ensemble.fit(own, label, own_head(heads), ridge)
                weight[node, :heads], bias[node] = found.weight, found.bias
        return cls(weight, bias)

    def __call__(self, node: np.ndarray, log_probs: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (n, classes), float64, and state features (n, F), float32, of answers at nodes (n,) of a gate j.

        `log_probs` (n, j, classes) are those of the heads visited, as cached. Of `features` (n, F), those of the gate's own
        head, the compressed embedding stays.
        """
        return state_features(self.logits(node, log_probs), features[:, len(UNCERTAINTY) :])

    def logits(self, node: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        """What the answers' log-probabilities (n, classes) are the log-softmax of, float64."""
        return mixed(log_probs, looked_up(self.weight, node), looked_up(self.bias, node))

    def answers(self, node: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        """Log-probabilities (n, classes), float64, of the answers alone, as above."""
        return normalised(self.logits(node, log_probs))

    @property
    def classes(self) -> int:
        return self.bias.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"bias": self.bias, "weight": self.weight}

    def fault(self, tree: PathTree, classes: int) -> str:
        """The fault of loaded arrays that do not fit a tree; an empty string if there is none."""
        for name, array, shape in (
            ("weight", self.weight, (len(tree), tree.segments)),
            ("bias", self.bias, (len(tree), classes)),
        ):
            if array.shape != shape:
                return f"{name} has shape {array.shape} instead of {shape}"
            if not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
                return f"{name} has values that are not finite numbers"
        return "a weight is negative" if (self.weight < 0).any() else ""


def read_ensembles(folder: Path) -> Ensembles | None:
    """The ensembles in a folder of a stage or a bundle; None where every node answers with its own head alone."""
    path = folder / FILE
    if not path.is_file():
        return None
    arrays = read_tensors(path)
    if set(arrays) != {"bias", "weight"}:
        raise IntegrityError(f"{path}: it has {', '.join(sorted(arrays)) or 'nothing'} instead of bias, weight")
    return Ensembles(**arrays)
