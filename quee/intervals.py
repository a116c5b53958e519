"""Resampling and standard errors of means over samples: the one place that says how uncertain a mean is.

Where samples come in groups, the groups are what is independent. The bootstrap then draws groups with all their samples
(Davison and Hinkley 1997, section 3.8), and standard errors are those of clustered samples (Liang and Zeger 1986). Both are
those of single samples where every group has one sample.
"""

import numpy as np

from quee.groups import divides, numbered, sums

NORMAL = 1.96
"""Standard errors on either side of a mean within which 95 % of normal deviations lie."""


ONE_SIDED = 1.645
"""The same for a bound on one side at 95 %."""


def resamples(samples: int, repeats: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Bootstrap weights (repeats, S), rows summing to one; `groups` (S,) are drawn whole."""
    random = np.random.default_rng(seed)
    if groups is None:
        return random.multinomial(samples, np.full(samples, 1 / samples), size=repeats) / samples
    place = numbered(groups)
    count = int(place.max()) + 1
    drawn = random.multinomial(count, np.full(count, 1 / count), size=repeats)[:, place]
    return drawn / drawn.sum(axis=1, keepdims=True)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def half_width(values: np.ndarray, factor: float, groups: np.ndarray | None = None) -> float:
    """`factor` standard errors of the mean of values (n,) in groups (n,); infinite for fewer than two groups or values."""
    if groups is None or not divides(groups):
        if len(values) < 2:
            return float("inf")
        return float(factor * float(values.std(ddof=1)) / len(values) ** 0.5)
    apart = sums(values - values.mean(), groups)
    if len(apart) < 2:
        return float("inf")
    return float(factor * np.sqrt(len(apart) / (len(apart) - 1) * (apart**2).sum()) / len(values))


def upper(differences: np.ndarray, factor: float, groups: np.ndarray | None = None) -> np.ndarray:
    """Upper bounds (P,) of the means of paired differences of errors (n, P), where `factor` standard errors count.

    As the score interval for matched proportions (Tango 1998) the standard error is that at the bound, not at the estimate:
    a few hundred samples without a difference do not show that there is none (with factor 1.645 the bound is then 2.7 / n,
    exactly it would be 3.0 / n). `groups` (n,) count instead of samples.
    """
    error, size = spread(differences, groups)
    around = factor**2 * size / (2 * len(differences))
    found: np.ndarray = differences.mean(axis=0) + around + np.sqrt((factor * error) ** 2 + around**2)
    return found


def spread(differences: np.ndarray, groups: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Standard errors (P,) of the means of differences (n, P) around 0, and for how many samples one counts: how much more the
    sums over groups vary, over all columns, than those of independent samples would; without a difference, a group's size."""
    values = differences.astype(np.float64)
    summed, size = values, 1.0
    if groups is not None and divides(groups):
        sizes, alone = sums(np.ones(len(values)), groups), float((values**2).sum())
        summed, size = sums(values, groups), float((sizes**2).sum() / sizes.sum())
        size = min(max(float((summed**2).sum()) / alone, 1.0), size) if alone > 0 else size
    return np.sqrt((summed**2).sum(axis=0)) / len(values), size
