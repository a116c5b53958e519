"""Which of several policies to take at a budget, as `auto` chooses it from validation samples.

Candidates come with the simplest first. Their errors are cross-fitted: what a candidate fits or chooses on validation, such
as thresholds and hulls, it fits on the other folds, so that one with many thresholds is not favoured. A candidate is worse
beyond doubt where its mean error is higher by more than so many standard errors of the paired difference.

1. The default is the simplest candidate that is not worse than the best beyond one standard error, by mean error over all
   budgets (the rule of Breiman et al. 1984, section 3.4.3). All budgets together tell more than any of them.
2. At a budget another takes its place only if it is better by two standard errors over the budgets near it. Below the
   cheapest point of the default rule 1 holds among the candidates that can serve the budget.
"""

from collections.abc import Sequence

import numpy as np

from quee.intervals import half_width
from quee.policies.sweep import Sweep

DOUBT, LOCAL = 1.0, 2.0
"""Standard errors by which a candidate must be worse than the best to be given up, and better than the default at a budget."""
NEAR = 2.0
"""Budgets are near each other up to this factor."""


def errors_of(sweep: Sweep, budgets: np.ndarray, split: str) -> np.ndarray:
    """Expected errors (S, budgets) of a split's samples; NaN at budgets that validation says cannot be met."""
    mixes = [sweep.weights(float(budget)) for budget in budgets]
    found: np.ndarray = sweep.errors[split] @ np.stack([weights for weights, _ in mixes], axis=1)
    found[:, [not met for _, met in mixes]] = np.nan
    return found


def beyond_doubt(gain: np.ndarray, groups: np.ndarray | None, doubt: float) -> bool:
    """Whether the mean gain (S,) is above 0 by more than `doubt` standard errors and half a sample.

    The half sample is the continuity correction of McNemar's test (Edwards 1948): without it one sample, on which two
    policies differ, is one standard error.
    """
    return bool(gain.mean() - 0.5 / len(gain) > half_width(gain, doubt, groups))


def simplest(errors: np.ndarray, groups: np.ndarray | None, doubt: float = DOUBT) -> int:
    """The first of the candidates' errors (C, S) that is not worse than the best by more than `doubt` standard errors."""
    best = errors[errors.mean(axis=1).argmin()]
    for index, own in enumerate(errors):
        if not beyond_doubt(own - best, groups, doubt):
            return index
    raise AssertionError("the best is not worse than itself")


def default_of(errors: np.ndarray, groups: np.ndarray | None) -> int:
    """The default of candidates with errors (C, S, budgets), over the budgets that all can serve."""
    common = np.isfinite(errors).all(axis=(0, 1))
    return simplest(errors[:, :, common].mean(axis=2), groups)


def by_budget(errors: np.ndarray, budgets: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """The candidate (budgets,) chosen at each budget, from errors (C, S, budgets); all can serve the last budget."""
    default, serves = default_of(errors, groups), np.isfinite(errors).all(axis=1)
    found = np.full(len(budgets), default)
    for index, budget in enumerate(budgets):
        able = np.flatnonzero(serves[:, index])
        near = np.abs(np.log(budgets / budget)) <= np.log(NEAR) * (1 + 1e-9)
        if not serves[default, index]:
            found[index] = able[simplest(errors[able, :, index], groups)] if len(able) else default
            continue
        better = []
        for other in able:
            both = near & serves[default] & serves[other]
            gain = (errors[default][:, both] - errors[other][:, both]).mean(axis=1)
            if beyond_doubt(gain, groups, LOCAL):
                better.append(other)
        if better:
            found[index] = better[simplest(errors[better, :, index], groups)]
    return found


def nested(errors: np.ndarray, budgets: np.ndarray, groups: np.ndarray | None, fold: np.ndarray) -> np.ndarray:
    """Errors (S, budgets) of choosing anew for each fold (S,) from the other folds: what the choice itself is worth."""
    found = np.empty(errors.shape[1:])
    for held in np.unique(fold):
        kept, own = fold != held, fold == held
        chosen = by_budget(errors[:, kept], budgets, None if groups is None else groups[kept])
        found[own] = errors[chosen, :, np.arange(len(budgets))].T[own]
    return found


def points_chosen(sweeps: Sequence[Sweep], chosen: np.ndarray, budgets: np.ndarray) -> list[tuple[int, int]]:
    """Candidate and point of each point that serves the budgets (rising) as chosen, by rising cost on validation.

    A candidate serves with the points whose cost is nearest to budgets where it is chosen. Where it has none there, the
    neighbours are mixed.
    """
    edges = np.sqrt(budgets[1:] * budgets[:-1])
    found = []
    for index, sweep in enumerate(sweeps):
        cells = np.searchsorted(edges, sweep.validation_cost)
        own = chosen[cells] == index
        found += [(float(c), index, int(p)) for c, p in zip(sweep.validation_cost[own], sweep.order[own], strict=True)]
    rising = sorted(found)
    if not rising:  # no candidate has a point where it is chosen
        index = int(chosen[-1])
        return [(index, int(point)) for point in sweeps[index].order]
    kept = [row for at, row in enumerate(rising) if at == 0 or row[0] > rising[at - 1][0] + 1e-12]
    return [(index, point) for _, index, point in kept]
