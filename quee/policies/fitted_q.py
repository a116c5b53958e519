"""`fitted_q` (ours): backward induction over the cached tree, so that a gate allows for decisions at later gates.

The paper's plan is open loop: it values a path as if no later gate could change it. Here the value of going on at
precision b is fitted to λ · cost + the value of deciding well at the next gate:

    V_L(n) = e(n),   V_j(n; λ) = min(Q(exit), min_b Q(b)),   Q_j(b; λ) ≈ E[λ · step cost + V_{j+1}(n·b; λ) | φ]

One ridge regression per gate gives the values at a grid of λ from the predictor's hidden layer; between grid points
they are interpolated. Values passed back come from regressions that did not see the sample, or any of its group
(cross-fitting), because a minimum over values fitted to the same noise is too low. Decisions blend fitted values with
the plan's values, which makes them more stable. The share w of fitted values is one half or, with `blend: auto`,
found per gate and λ by stacking (Wolpert 1992): the w in [0, 1] for which w · fitted + (1 - w) · planned is nearest
to the values passed back, on samples that the regression did not see. (The plan's predictors did see them, which
favours the plan.) Where plans are biased, w goes to 1 with more samples; where they are not, w depends on which of
the two is noisier.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.cost import FLOAT_BITS, bitflops
from quee.groups import folds_of
from quee.paths import PathTree
from quee.policies.base import EXIT, Basis, Costs, Limit, Policy, Table
from quee.policies.networks import rows_of, views
from quee.policies.plan import Plan
from quee.policies.sweep import Setting
from quee.work.lookup import looked_up

if TYPE_CHECKING:
    from quee.cache.read import FeatureCache
    from quee.settings.policies import FittedQ as Settings

LOWEST, HIGHEST = 1e-3, 50.0
"""Range of the trade-offs at which values are fitted."""
RIDGE = 3.0
"""Penalty per standardised hidden unit, in samples' worth of squared error."""
READ = 1 << 23
"""Predicted errors read at a time in a fit: a sampled tree has so many suffixes that those of all samples take gigabytes."""
REMEMBERED = 64
"""Number of trade-offs per gate whose weights are kept for the next call."""


@dataclass(frozen=True)
class _Weights:
    """Weights of the fitted values at a gate for a few trade-offs k."""

    trade_offs: np.ndarray
    """(k,) rising."""
    weights: np.ndarray
    """(k, steps, H), float64, multiplied by the share of the fitted values in a decision."""
    bias: np.ndarray
    """(k, steps) intercepts, multiplied likewise."""
    rest: np.ndarray
    """(k, 1) share of the plan's values."""

    def rows(self, trade_off: np.ndarray) -> np.ndarray | None:
        """Rows of trade-offs (n,) among these; None where some are missing."""
        found = self.trade_offs.searchsorted(trade_off)
        return None if np.count_nonzero(self.trade_offs.take(found, mode="clip") != trade_off) else found


@dataclass
class FittedQ(Policy):
    """The fitted policy; `weights[gate - 1]` is (H + 1, 1 + B, knots)."""

    plan: Plan
    costs: Costs
    knots: np.ndarray
    """(knots,) rising trade-offs."""
    weights: list[np.ndarray]
    blend: np.ndarray
    """(gates, knots) share of the fitted values in a decision; the plan's values have the rest."""
    bitflops: list[float]
    """BitFLOPs of the decision, by gate before the last."""
    _known: dict[int, _Weights] = field(init=False, repr=False, default_factory=dict)

    @property
    def tree(self) -> PathTree:  # type: ignore[override]
        return self.plan.tree

    @classmethod
    def fit(cls, setting: Setting) -> "FittedQ":
        from quee.settings.policies import Policies

        assert setting.training is not None
        options = setting.options or Policies()
        return fit_fitted_q(Plan.of(setting.basis), setting.training, options.fitted_q, setting.seed)

    @classmethod
    def load(cls, basis: Basis, arrays: dict[str, np.ndarray]) -> "FittedQ":
        plan = Plan.of(basis)
        weights = [arrays[f"gate.{gate}.weight"] for gate in range(1, plan.tree.segments)]
        half = np.full((len(weights), len(arrays["knots"])), 0.5)  # earlier bundles do not store the share
        return cls.of(plan, basis.description, arrays["knots"], weights, arrays.get("blend", half))

    @classmethod
    def of(
        cls, plan: Plan, description: dict[str, Any], knots: np.ndarray, weights: list[np.ndarray], blend: np.ndarray
    ) -> "FittedQ":
        """The policy with costs from `tree.json`, including those of its decisions."""
        spent = [
            plan.predictors.bitflops(gate) + bitflops((w.shape[0] - 1) * w.shape[1], (FLOAT_BITS, FLOAT_BITS))
            for gate, w in enumerate(weights, 1)
        ]  # the predictor, and one column of weights per step for the sample's λ
        return cls(plan, Costs.of(plan.tree, description, spent), knots, weights, blend, spent)

    def under(self, costs: Costs) -> Plan:
        """Returns the plan, because fitted values hold only for the costs they were fitted with."""
        return self.plan.under(costs)

    def read(self, gate: int, node: np.ndarray, view: np.ndarray) -> Table:
        """Reads like the plan."""
        return self.plan.read(gate, node, view)

    def exit_error(self, table: Table) -> np.ndarray:
        return self.plan.exit_error(table)

    def decide(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        step: np.ndarray = self.values(table, knob, limit).astype(np.float32).argmin(axis=1) + EXIT
        return step

    def values(self, table: Table, knob: np.ndarray, limit: Limit | None = None) -> np.ndarray:
        """Fitted and planned values blended: (n, 1 + B), exit first; infinite where not considered."""
        mixed = self.plan.values(table, knob, limit)
        every = limit is None and self.plan.futures(table.gate).every
        unknown = None if every else np.isinf(mixed)
        if unknown is not None:
            np.copyto(mixed, 0.0, where=unknown)
        known, rows = self._at(table.gate, knob)
        # The sum has a fixed order; a matrix product's last bits would depend on its number of rows.
        fitted = np.add.reduce(table.columns[1].astype(np.float64)[:, None, :] * known.weights[rows], axis=2)
        fitted += known.bias[rows]
        mixed *= known.rest[rows]
        mixed += fitted
        if unknown is not None:
            np.copyto(mixed, np.inf, where=unknown)
        return mixed

    def _at(self, gate: int, trade_off: np.ndarray) -> tuple[_Weights, np.ndarray | slice]:
        """Weights for trade-offs (n,), kept for the next call, and each sample's row; equal trade-offs share a row."""
        if not isinstance(trade_off, np.ndarray):  # it is traced, and has no values that could be known
            return self._read_at(gate, trade_off), slice(None)
        known = self._known.get(gate)
        rows = None if known is None else known.rows(trade_off)
        if known is None or rows is None:
            wanted = set(trade_off.tolist())
            if known is not None and len(wanted) + len(known.rest) <= REMEMBERED:
                wanted.update(known.trade_offs.tolist())
            known = self._known[gate] = self._read_at(gate, np.array(sorted(wanted)))
            rows = known.rows(trade_off)
            assert rows is not None
        if len(rows) == 1 or (len(rows) and not (rows != rows[0]).any()):
            return known, slice(int(rows[0]), int(rows[0]) + 1)
        return known, rows

    def _read_at(self, gate: int, at: np.ndarray) -> _Weights:
        """Weights for rising trade-offs (k,)."""
        weights = interpolate(self.weights[gate - 1], self.knots, at)  # (k, H + 1, steps)
        share = np.interp(at, self.knots, self.blend[gate - 1])
        weights *= share[:, None, None]
        return _Weights(at, weights[:, :-1].transpose(0, 2, 1).copy(), weights[:, -1].copy(), 1 - share[:, None])

    def arrays(self) -> dict[str, np.ndarray]:
        weights = {f"gate.{gate}.weight": w for gate, w in enumerate(self.weights, 1)}
        return {"blend": self.blend, "knots": self.knots, **weights}

    def facts(self) -> dict[str, Any]:
        return {
            "bitflops": {f"gate_{gate}": spent for gate, spent in enumerate(self.bitflops, 1)},
            "knots": len(self.knots),
        }

    def fault(self) -> str:
        tree, knots = self.tree, self.knots
        if knots.ndim != 1 or len(knots) < 2 or not bool((np.diff(knots) > 0).all()):
            return "its knots do not rise"
        if self.blend.shape != (tree.segments - 1, len(knots)):
            return f"blend has shape {self.blend.shape}"
        for gate, weights in enumerate(self.weights, 1):
            hidden = self.plan.predictors.networks[gate - 1].units
            expected = (hidden + 1, 1 + len(tree.precisions), len(knots))
            if weights.shape != expected:
                return f"gate {gate}: {weights.shape} instead of {expected}"
        return ""


def interpolate(weights: np.ndarray, knots: np.ndarray, trade_offs: np.ndarray) -> np.ndarray:
    """Weights (H + 1, steps, knots) interpolated to other trade-offs, (Λ, H + 1, steps): linear in λ, extrapolated outside."""
    right = np.clip(np.searchsorted(knots, trade_offs), 1, len(knots) - 1)
    left, by_knot = right - 1, weights.transpose(2, 0, 1)
    below = looked_up(knots, left)
    share = ((trade_offs - below) / (looked_up(knots, right) - below))[:, None, None]
    found: np.ndarray = looked_up(by_knot, left) * (1 - share) + looked_up(by_knot, right) * share
    return found


def _read(hidden: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Hidden units (…, H), weights (H + 1, steps, Λ) → values (…, steps, Λ)."""
    flat = hidden @ weights[:-1].reshape(hidden.shape[-1], -1) + weights[-1].ravel()
    return flat.reshape(*hidden.shape[:-1], *weights.shape[1:])


def _blended(fitted: np.ndarray, planned: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The blend; infinite where the plan's value is, because such a step is not considered."""
    known = np.isfinite(planned)
    return np.where(known, share * fitted + (1 - share) * np.where(known, planned, 0.0), np.inf)


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (H + 1, outputs) of a ridge regression on (n, H); the intercept is last and not penalised."""
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    z, centre = (x - mean) / scale, y.mean(axis=0)
    w = np.linalg.solve(z.T @ z + RIDGE * np.eye(x.shape[1]), z.T @ (y - centre)) / scale[:, None]
    return np.concatenate([w, (centre - mean @ w)[None]])


def fit_fitted_q(plan: Plan, cache: "FeatureCache", settings: "Settings", seed: int = 0) -> FittedQ:
    """Fit on the predictor split's cache, from the last gate to the first."""
    fixed = None if settings.blend == "auto" else settings.blend
    tree, step_cost = plan.tree, plan.costs.step
    knots = np.concatenate([[0.0], np.geomspace(LOWEST, HIGHEST, settings.knots - 1)])
    fold = folds_of(len(cache), cache.group, settings.folds, seed)
    choices, samples = len(tree.precisions), len(cache)
    weights: list[np.ndarray] = [np.zeros(0)] * (tree.segments - 1)
    share = np.zeros((tree.segments - 1, len(knots)))
    last = tree.nodes_at(tree.segments)
    value = {int(n): np.repeat(cache.error[:, n, None].astype(float), len(knots), axis=1) for n in last}
    for gate in range(tree.segments - 1, 0, -1):
        nodes = tree.nodes_at(gate)
        hidden, planned = _planned(plan, gate, cache.features, knots)
        target = np.full((samples, len(nodes), 1 + choices, len(knots)), np.nan)
        target[:, :, 0] = cache.error[:, nodes, None]
        for index, node in enumerate(nodes):
            for choice in range(choices):
                child = int(tree.children[node, choice])
                if child >= 0:
                    target[:, index, 1 + choice] = knots * step_cost[child] + value[child]

        def fit(rows: np.ndarray, hidden: np.ndarray = hidden, target: np.ndarray = target) -> np.ndarray:
            found = np.zeros((hidden.shape[-1] + 1, 1 + choices, len(knots)))
            for step in range(1 + choices):
                known = np.isfinite(target[0, :, step, 0])
                if known.any():
                    found[:, step] = _ridge(rows_of(hidden[rows][:, known]), rows_of(target[rows][:, known, step]))
            return found

        weights[gate - 1] = fit(np.ones(samples, bool))
        unseen = [fit(fold != k) for k in range(settings.folds)]
        fitted = np.empty_like(planned)
        for k, own in enumerate(unseen):
            fitted[fold == k] = _read(hidden[fold == k], own)
        share[gate - 1] = stacked(fitted, planned, target) if fixed is None else fixed
        best = _blended(fitted, planned, share[gate - 1]).min(axis=2)  # (S, nodes, knots)
        value = {int(node): best[:, index] for index, node in enumerate(nodes)}
    return FittedQ.of(plan, cache.description, knots, weights, share)


def _planned(plan: Plan, gate: int, features: np.ndarray, knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predictor's hidden units (S, nodes, H) and the plan's values (S, nodes, steps, knots), float64, at a gate's nodes."""
    tree, nodes = plan.tree, plan.tree.nodes_at(gate)
    size = max(1, READ // (len(nodes) * len(tree.suffixes(gate))))
    hidden, planned = [], []
    for start in range(0, len(features), size):
        seen = views(tree, gate, features[start : start + size])
        table = plan.read(gate, np.tile(nodes, len(seen)), seen.reshape(-1, seen.shape[2]))
        values = np.stack([plan.values(table, np.full(len(table), knot)) for knot in knots], axis=2)
        hidden.append(table.columns[1].astype(np.float64).reshape(*seen.shape[:2], -1))
        planned.append(values.reshape(*seen.shape[:2], *values.shape[1:]))
    return np.concatenate(hidden), np.concatenate(planned)


def stacked(fitted: np.ndarray, planned: np.ndarray, realised: np.ndarray) -> np.ndarray:
    """Share (knots,) of `fitted` in [0, 1] whose blend with `planned` is nearest to `realised` in least squares.

    Arrays (S, nodes, steps, knots); steps that are not considered are not finite in `planned` and `realised`.
    """
    known = np.isfinite(planned) & np.isfinite(realised)
    apart = np.where(known, fitted - np.where(known, planned, 0.0), 0.0)
    missing = np.where(known, realised, 0.0) - np.where(known, planned, 0.0)
    axes = tuple(range(apart.ndim - 1))
    return np.clip((apart * missing).sum(axis=axes) / np.maximum((apart**2).sum(axis=axes), 1e-12), 0.0, 1.0)
