"""Accuracy lost to the float network, in points, at every operating point of a sweep.

An accuracy loss is asked for at request time, of whatever points there are. So its limits hold for all points at once: the
critical value is that of the largest of the points' standardised deviations in a paired bootstrap over validation samples,
or groups of them (max-t, one-sided). Where few samples differ the bootstrap knows too little: bounds are score bounds
(`quee.intervals.upper`), and every point counts as if one more sample, or group, differed.
"""

import numpy as np

from quee.intervals import ONE_SIDED, resamples, spread, upper

LEVEL = 0.95
REPEATS = 500
"""Bootstrap replicates of what a bundle says of its points, and of what the report says of the bundle."""


def accuracy_losses(
    errors: np.ndarray, float_errors: np.ndarray, repeats: int, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (P,) on samples with errors (n, P) and the float network's errors (n,), and what they are at most on new data
    with 95 % confidence for all points at once (P,); both in points of accuracy.
    """
    lost = errors.astype(np.float64) - float_errors[:, None]
    mean, (error, size) = lost.mean(axis=0), spread(lost, groups)
    drawn = resamples(len(lost), repeats, seed, groups) @ lost
    largest = ((mean - drawn) / np.hypot(error, size / len(lost))).max(axis=1)
    critical = max(float(np.quantile(largest, LEVEL)), ONE_SIDED)
    return 100 * mean, 100 * upper(lost, critical, groups)
