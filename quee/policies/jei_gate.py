"""Learned gates after JEI-DNN (ICLR 2024), on our frozen heads: a logistic regression per gate and λ.

A gate sees the largest probability, entropy, margin and entropy of p²/Σp² of its own head. Its target is 1 where the
exit with least cross-entropy + λ · cost lies at the gate or before it (the cumulative one-hot of the argmin); a sample
leaves at the first gate that says so with more than one half. Fitted on the predictor split; JEI-DNN trains the heads
too. With 0/1 errors instead of the cross-entropy all λ below 1 have the same targets, and curves are worse.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import expit

from quee.cost import FLOAT_BITS, bitflops
from quee.evaluation.sweep import Setting, Sweep, hull_of
from quee.policies.confidence import exits_by_threshold

FEATURES = ("max_probability", "entropy", "margin", "sharpened_entropy")
PRICES = np.concatenate([[0.0], np.geomspace(0.003, 100.0, 39)])
RIDGE = 0.1
"""Penalty on each weight, so that separable targets have a solution."""
STEPS = 30


def fit_logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (1 + F, Λ), intercept first, of logistic regressions on x (n, F) for targets y (n, Λ): Newton's method."""
    z = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    rate = np.clip(y.mean(axis=0), 1e-3, 1 - 1e-3)
    w = np.zeros((z.shape[1], y.shape[1]))
    w[0] = np.log(rate / (1 - rate))
    penalty = np.full(z.shape[1], RIDGE)
    penalty[0] = 1e-3  # an intercept may go far, but must end somewhere where all targets are equal
    for _ in range(STEPS):
        p = expit(z @ w)
        slope = z.T @ (p - y) + penalty[:, None] * w  # (1 + F, Λ)
        curve = np.einsum("nf,nl,ng->lfg", z, p * (1 - p), z, optimize=True) + np.diag(penalty)
        step = np.linalg.solve(curve, slope.T[:, :, None])[:, :, 0].T
        w -= np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-8:
            break
    return w


def jei_gate(setting: Setting) -> Iterator[Sweep]:
    """`jei_gate`: a range of λ at every uniform precision of the tree, their hull on validation.

    Nothing where the setting has no `training` cache.
    """
    train = setting.training
    if train is None:
        return
    columns = [setting.feature_names.index(name) for name in FEATURES]
    unit = setting.caches["validation"].description["unit_bitflops"]
    own = bitflops(len(FEATURES), (FLOAT_BITS, FLOAT_BITS)) / unit
    sweeps = []
    for _, nodes, references in setting.uniform():
        if references:
            continue
        last = len(nodes) - 1
        loss = -np.log(np.maximum(train.p_label[:, nodes].astype(np.float64), 1e-6))
        gates = np.minimum(np.arange(1, last + 2), last)  # the last head needs no gate
        spent = setting.spent(nodes) + own * gates
        best = (loss[:, :, None] + spent[:, None] * PRICES).argmin(axis=1)  # (n, Λ)
        score = {split: np.zeros((len(cache), last + 1, len(PRICES))) for split, cache in setting.caches.items()}
        for gate, node in enumerate(nodes[:-1]):
            x = train.features[:, node, columns].astype(np.float64)
            mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
            w = fit_logistic((x - mean) / scale, (best <= gate).astype(float))
            for split, cache in setting.caches.items():
                z = (cache.features[:, node, columns].astype(np.float64) - mean) / scale
                score[split][:, gate] = w[0] + z @ w[1:]
        left = {s: exits_by_threshold(value, np.zeros(len(PRICES))) for s, value in score.items()}
        errors = {s: np.take_along_axis(setting.errors(s)[:, nodes], g, axis=1) for s, g in left.items()}
        sweeps.append(Sweep("", "lambda", PRICES, errors, {s: spent[g] for s, g in left.items()}))
    yield hull_of("jei_gate", sweeps)
