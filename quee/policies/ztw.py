"""ZTW (Zero Time Waste, Wołczyk et al. 2021, arXiv 2106.05409): early exits by the confidence of an ensemble of all heads so far.

The ensembles are those of `quee.ensembles`, fitted on the predictor split, but near equal weights as published. A sample
exits at the first gate where the largest probability reaches a threshold.

It fits ensembles of its own, for references too, and is therefore only simulated.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from quee.ensembles import Ensemble, ensemble_bitflops
from quee.policies.methods import Method
from quee.policies.sweep import Setting, Sweep, hull_of
from quee.policies.thresholds import POINTS

RIDGE = 1.0
"""Strength of the penalty that pulls the weights toward equal ones, 1/j."""


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
    ensembles = [Ensemble.fit(known[:, :gate], training.label, np.full(gate, 1 / gate), RIDGE) for gate in gates]
    score, wrong = {}, {}
    for split, own in setting.caches.items():
        seen = own.log_probs_at(nodes, references)
        assert seen is not None
        q = np.stack([ensemble(seen[:, :gate]) for gate, ensemble in zip(gates, ensembles, strict=True)], axis=1)
        score[split], wrong[split] = np.exp(q.max(axis=2)), q.argmax(axis=2) != own.label[:, None]
    thresholds = np.append(np.quantile(score["validation"], np.linspace(0, 1, POINTS - 1)), np.inf)
    spent = setting.spent(nodes, references)
    if references or setting.ensembles is None:  # else the heads' costs have the same products already
        mixing = np.array([ensemble_bitflops(gate, known.shape[2]) for gate in gates])
        spent = spent + np.cumsum(mixing) / setting.basis.description["unit_bitflops"]
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
