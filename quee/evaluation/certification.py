"""Guarantees from the `certification` split, which has no other use.

*Learn then test* (Angelopoulos et al., 2021): each operating point has a hypothesis "the mean is above the limit". The
points are tested in an order fixed on validation, the safest first, until a hypothesis is not rejected at level δ. All
points before that one keep the limit at once with probability ≥ 1 - δ. P-values by test:

- `betting` (Waudby-Smith, Ramdas, 2024): from the wealth of a gambler who bets against the hypothesis, for means of
  bounded values. It adapts to their variance, which is small for differences of two nearly equal classifiers.
- `hoeffding_bentkus`: the smaller of the two bounds for means of values in [0, 1].
- `binomial`: exact, for values that are 0 or 1.

*Conformal risk control* (Angelopoulos et al., 2022): the mean over certification sets keeps the limit if losses rise
along the order. Each sample's losses are replaced by their running maximum, so that they rise.

All guarantees hold for new data drawn as the certification samples were, with no assumption on the policy. Where samples
come in groups, groups are what is drawn: a group counts once, by the sum over its samples of loss − limit, as a share of the
largest group's size. The mean over samples then keeps the limit for new groups that are no larger.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.stats import binom

from quee.evaluation.measured import float_errors
from quee.groups import divides, numbered, sums
from quee.policies.sweep import Setting, Sweep
from quee.precision import FLOAT

Test = Literal["betting", "hoeffding_bentkus", "binomial"]
SPLIT = "certification"
DEAREST = 1.5
"""Upper limit of a routed cost, relative to the dearest static path; a sweep that can cost more raises the limit."""


def p_values(losses: np.ndarray, limit: float, low: float, high: float, test: Test, level: float = 0.1) -> np.ndarray:
    """P-values (P,) of "the mean loss is above the limit" from losses (n, P) in [low, high].

    `betting` depends on the order of the rows, and its stakes are tuned to `level`. Raises ValueError where losses are
    out of range, or not 0 or 1 for `binomial`.
    """
    if losses.size and (losses.min() < low - 1e-9 or losses.max() > high + 1e-9):
        raise ValueError(f"losses in [{losses.min():g}, {losses.max():g}]; valid: [{low:g}, {high:g}]")
    if limit >= high:
        return np.zeros(losses.shape[1])
    if limit < low:
        return np.ones(losses.shape[1])
    if test == "binomial":
        if (low, high) != (0, 1) or not np.isin(losses, (0, 1)).all():
            raise ValueError("the binomial test takes losses of 0 or 1")
        return np.asarray(binom.cdf(losses.sum(axis=0), len(losses), limit))
    scaled, mean = (losses - low) / (high - low), (limit - low) / (high - low)
    return _betting(scaled, mean, level) if test == "betting" else _hoeffding_bentkus(scaled, mean)


def _hoeffding_bentkus(x: np.ndarray, limit: float) -> np.ndarray:
    n, mean = len(x), x.mean(axis=0)
    below = np.clip(np.minimum(mean, limit), 1e-12, 1 - 1e-12)
    bound = np.clip(limit, 1e-12, 1 - 1e-12)
    divergence = below * np.log(below / bound) + (1 - below) * np.log((1 - below) / (1 - bound))
    bentkus = np.e * binom.cdf(np.ceil(n * mean - 1e-9), n, limit)
    return np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1.0)


def _betting(x: np.ndarray, limit: float, level: float) -> np.ndarray:
    """1 / greatest wealth; a stake depends only on earlier rows, and each row pays 1 + stake · (limit - x)."""
    n = len(x)
    count = np.arange(1, n + 1)[:, None]
    mean = (0.5 + x.cumsum(axis=0)) / (count + 1)
    spread = (0.25 + ((x - mean) ** 2).cumsum(axis=0)) / (count + 1)
    before = np.concatenate([np.full((1, x.shape[1]), 0.25), spread[:-1]])
    stake = np.minimum(np.sqrt(2 * np.log(1 / level) / (n * before)), 0.75 / (1 - limit))
    wealth = np.log1p(stake * (limit - x)).cumsum(axis=0)
    return np.exp(-np.maximum(wealth.max(axis=0), 0.0))


def by_group(losses: np.ndarray, limit: float, groups: np.ndarray | None) -> np.ndarray:
    """Losses (G, P) of groups from losses (n, P) of samples in groups (n,), in the same range; their means are on the same
    side of the limit as the mean over samples. The losses themselves where no group has several samples.
    """
    if groups is None or not divides(groups):
        return losses
    largest = np.unique(groups, return_counts=True)[1].max()
    found: np.ndarray = sums(losses - limit, groups) / largest + limit
    return found


def learn_then_test(
    losses: np.ndarray,
    limit: float,
    delta: float,
    low: float = 0.0,
    high: float = 1.0,
    test: Test = "betting",
    groups: np.ndarray | None = None,
) -> int | None:
    """Index of the last point certified at level δ among columns of losses (n, P), safest first; None where none is.

    `groups` (n,) are those of the rows. A test of 0 and 1 takes no groups of several samples.
    """
    if low <= limit < high:
        losses = by_group(losses, limit, groups)
    rejected = p_values(losses, limit, low, high, test, delta) <= delta
    passed = int(np.logical_and.accumulate(rejected).sum())
    return passed - 1 if passed else None


def conformal_risk_control(
    losses: np.ndarray, limit: float, high: float = 1.0, groups: np.ndarray | None = None
) -> int | None:
    """Index of the last point whose expected loss keeps the limit, in columns of losses (n, P) ≤ high, safest first.

    A point keeps it where n / (n + 1) · mean + high / (n + 1) ≤ limit, on running maxima; with `groups` (n,), n and mean are
    those of the groups. None where no point does.
    """
    drawn = by_group(np.maximum.accumulate(losses, axis=1), limit, groups)
    rising = drawn.mean(axis=0)
    kept = (len(drawn) * rising + high) / (len(drawn) + 1) <= limit
    passed = int(np.logical_and.accumulate(kept).sum())
    return passed - 1 if passed else None


def certify(
    setting: Setting,
    sweeps: Sequence[Sweep],
    accuracy_losses: Sequence[float],
    budgets: Sequence[float],
    delta: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Guarantees for each sweep: λ by accuracy loss and by budget, each alone at level δ.

    Accuracy losses are points of accuracy below the float network on the same samples; there are no statements on them where
    it is not among the precisions and references. For accuracy losses λ goes from the dearest point (validation cost) to the
    cheapest, for budgets the other way. Raises KeyError without the split.
    """
    known, tested = float_errors(setting, SPLIT), float_errors(setting)
    samples = len(setting.caches[SPLIT])
    reference = np.zeros(samples) if known is None else known.astype(np.float64)
    group = setting.caches[SPLIT].group
    # Bets depend on the order of rows, and sample ids may be sorted by class. Larger groups must not come earlier.
    random = np.random.default_rng(seed)
    if group is not None and divides(group):
        place = numbered(group)
        rows = np.argsort(random.permutation(int(place.max()) + 1)[place], kind="stable")
    else:
        rows = random.permutation(samples)
    drawn = None if group is None else group[rows]
    found: dict[str, Any] = {}
    for sweep in sweeps:
        rising = sweep.order
        excess = (sweep.errors[SPLIT] - reference[:, None])[rows][:, rising[::-1]]
        costs = sweep.costs[SPLIT][rows][:, rising]
        ceiling = max(DEAREST * float(setting.costs.static.max()), sweep.dearest)
        loss = {
            f"{limit:g}": {
                "conformal": _point(sweep, rising[::-1], conformal_risk_control(excess, limit / 100, groups=drawn)),
                "learn_then_test": _point(
                    sweep, rising[::-1], learn_then_test(excess, limit / 100, delta, -1.0, groups=drawn)
                ),
            }
            for limit in (accuracy_losses if known is not None else ())
        }
        spent = {
            f"{budget:g}": {
                "conformal": _point(sweep, rising, conformal_risk_control(costs, budget, ceiling, drawn)),
                "learn_then_test": _point(
                    sweep, rising, learn_then_test(costs, budget, delta, 0.0, ceiling, groups=drawn)
                ),
            }
            for budget in budgets
        }
        found[sweep.name] = {"accuracy_loss": loss, "budget": spent}
    return {
        **({} if group is None else {"groups": len(np.unique(group))}),
        "delta": delta,
        "methods": found,
        "reference": FLOAT,
        "reference_test_accuracy": None if tested is None else float(1 - tested.mean()),
        "samples": samples,
        "test_samples": len(setting.caches["test"]),
    }


def _point(sweep: Sweep, order: np.ndarray, index: int | None) -> Mapping[str, float | str] | None:
    """The certified point: its price, and the policy and its knob, by which a bundle finds it among its points."""
    if index is None:
        return None
    at = order[index]
    return {
        "knob": float(sweep.values[at] if sweep.knobs is None else sweep.knobs[at]),
        "policy": sweep.policies[at] if sweep.policies else "",
        "lambda": float(sweep.values[at]),
        "test_accuracy": float(1 - sweep.errors["test"][:, at].mean()),
        "test_cost": float(sweep.costs["test"][:, at].mean()),
        "validation_cost": float(sweep.costs["validation"][:, at].mean()),
    }
