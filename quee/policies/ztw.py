"""Ensembles of the heads visited, after ZTW (Zero Time Waste, Wołczyk et al. 2021, arXiv 2106.05409).

At gate j the answer q_j is that of the geometric ensemble of all heads so far:

    log q_j = Σ_{i ≤ j} w_ij log p_i + b_j − log Z,   w_ij ≥ 0, b_j one number per class.

Weights are fitted on the predictor split by maximum likelihood, near equal weights. A sample exits at the first gate
where the largest probability of q_j reaches a threshold, and the answer is the ensemble's. ZTW also gives a head the
logits of the head before it; our heads stay as they are (`benchmarks/exits_behind_frozen.py` measures such heads).

It is only simulated, because the answers at earlier gates are not among the state features that a policy reads.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from quee.cost import FLOAT_BITS, bitflops
from quee.policies.methods import Method
from quee.policies.sweep import Setting, Sweep, hull_of
from quee.policies.thresholds import POINTS

RIDGE = 1.0
"""Strength of the penalty ½ · RIDGE · (Σ (w − 1/j)² + Σ b²) beside the summed cross-entropy in nats."""


@dataclass(frozen=True)
class Ensemble:
    """The ensemble at one gate: `weight` (j,) by head so far, `bias` (classes,)."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(cls, log_probs: np.ndarray, label: np.ndarray) -> "Ensemble":
        """From log-probabilities (n, j, classes) of the heads so far, and labels (n,)."""
        from scipy.optimize import minimize  # slow to import, and needed only for fitting

        rows, heads, classes = log_probs.shape
        start = np.concatenate([np.full(heads, 1 / heads), np.zeros(classes)])
        each = np.arange(rows)

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            q = cls(values[:heads], values[heads:])(log_probs)
            moved = values - start
            loss = -q[each, label].sum() + RIDGE / 2 * (moved**2).sum()
            slope = np.exp(q)
            slope[each, label] -= 1
            by_head = np.einsum("nc,njc->j", slope, log_probs)
            return loss / rows, (np.concatenate([by_head, slope.sum(axis=0)]) + RIDGE * moved) / rows

        bounds = [(0.0, None)] * heads + [(None, None)] * classes
        found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 500})
        return cls(found.x[:heads], found.x[heads:])

    def __call__(self, log_probs: np.ndarray) -> np.ndarray:
        """Log-probabilities (n, classes) of the ensemble."""
        z = np.einsum("j,njc->nc", self.weight, log_probs) + self.bias
        z -= z.max(axis=1, keepdims=True)
        found: np.ndarray = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return found


def exits_by_score(score: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Scores (S, gates) → index (S, P) of the first gate whose score reaches each threshold (P,), else the last."""
    sure = score[:, :, None] >= thresholds  # (S, gates, P)
    sure[:, -1] = True
    return sure.argmax(axis=1)


def along(setting: Setting, nodes: Sequence[int], references: bool) -> Sweep | None:
    """Ensembles at one uniform precision, at `POINTS` thresholds; None without data to fit on."""
    training = setting.training
    known = None if training is None else training.log_probs_at(nodes, references)
    if training is None or known is None:
        return None
    gates = range(1, len(nodes) + 1)
    ensembles = [Ensemble.fit(known[:, :gate], training.label) for gate in gates]
    score, wrong = {}, {}
    for split, own in setting.caches.items():
        seen = own.log_probs_at(nodes, references)
        assert seen is not None
        q = np.stack([ensemble(seen[:, :gate]) for gate, ensemble in zip(gates, ensembles, strict=True)], axis=1)
        score[split], wrong[split] = np.exp(q.max(axis=2)), q.argmax(axis=2) != own.label[:, None]
    thresholds = np.append(np.quantile(score["validation"], np.linspace(0, 1, POINTS - 1)), np.inf)
    products = known.shape[2] * np.array(gates)  # one per class and head
    mixing = np.array([bitflops(int(count), (FLOAT_BITS, FLOAT_BITS)) for count in products])
    spent = setting.spent(nodes, references) + np.cumsum(mixing) / setting.basis.description["unit_bitflops"]
    exits = {split: exits_by_score(own, thresholds) for split, own in score.items()}
    errors = {split: np.take_along_axis(wrong[split], exits[split], axis=1) for split in exits}
    return Sweep("", "threshold", thresholds, errors, {split: spent[at] for split, at in exits.items()})


def each_precision(setting: Setting) -> Iterator[Sweep]:
    """`ztw_PRECISION`: each uniform precision alone, references included."""
    for name, nodes, references in setting.uniform():
        if (found := along(setting, nodes, references)) is not None:
            yield Sweep(f"ztw_{name}", found.kind, found.values, found.errors, found.costs)


def ztw(setting: Setting) -> Iterator[Sweep]:
    """`ztw`: every uniform precision of the tree; their hull on validation."""
    found = [along(setting, nodes, False) for _, nodes, references in setting.uniform() if not references]
    sweeps = [sweep for sweep in found if sweep is not None]
    if sweeps:
        yield hull_of("ztw", sweeps)
    elif setting.training is not None:
        _say_left_out(len(setting.basis.description["classes"]))


@cache
def _say_left_out(classes: int) -> None:
    print(f"ztw: left out, because the cache has no log-probabilities of all {classes} classes", file=sys.stderr)


METHOD = Method("ztw", "baseline", sweeps=ztw)
EACH = Method("ztw_each", "single", "ztw_", sweeps=each_precision)
