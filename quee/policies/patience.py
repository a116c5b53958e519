"""Patience (PABEE, Zhou et al. 2020): exit once so many gates in a row agree with the gate before.

It is only simulated, because the gates' answers are not among the state features that a policy reads.
"""

from collections.abc import Iterator

import numpy as np

from quee.policies.methods import Method
from quee.policies.sweep import Setting, Sweep, hull_of


def exits_by_agreement(prediction: np.ndarray, patience: int) -> np.ndarray:
    """Predictions (S, gates) → index (S,) of the first gate whose prediction repeats `patience` times, else the last."""
    agreed, run = prediction[:, 1:] == prediction[:, :-1], np.zeros(len(prediction), np.int64)
    gate = np.full(len(prediction), prediction.shape[1] - 1)
    for index in range(1, prediction.shape[1] - 1):
        run = np.where(agreed[:, index - 1], run + 1, 0)
        gate = np.where((run >= patience) & (gate > index), index, gate)
    return gate


def patience(setting: Setting) -> Iterator[Sweep]:
    """`patience`: every number of agreements at every uniform precision of the tree; their hull on validation."""
    sweeps = []
    for _, nodes, references in setting.uniform():
        if references:
            continue
        spent = setting.spent(nodes)
        needed = np.arange(1, len(nodes) + 1)  # the last number is never reached, so all samples go to the end
        errors, costs = {}, {}
        for split, cache in setting.caches.items():
            prediction = cache.prediction[:, nodes]
            gate = np.stack([exits_by_agreement(prediction, int(count)) for count in needed], axis=1)
            errors[split] = np.take_along_axis(setting.errors(split)[:, nodes], gate, axis=1)
            costs[split] = spent[gate]
        sweeps.append(Sweep("", "threshold", needed.astype(float), errors, costs))
    yield hull_of("patience", sweeps)


METHOD = Method("patience", "baseline", sweeps=patience)
