"""One point of the grid: fitted on the predictor split, chosen on validation, evaluated on every test sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from quee._perceptron import Fit
from quee.cache.answers import with_ensembles
from quee.cache.read import FeatureCache
from quee.evaluation.ablation.labels import targets_of
from quee.evaluation.ablation.views import smaller, view
from quee.evaluation.curves import Floor, area_errors, errors_within
from quee.evaluation.resplits import redivide
from quee.policies.base import Costs, trade_offs
from quee.policies.networks import Network, Predictors, Read, views
from quee.policies.plan import Plan, plan_of
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting, Sweep
from quee.predictors import fit_network, over_gates, own_certainty, predictions, quality, rows_at
from quee.settings.block import Block, PrecisionName, Share
from quee.settings.experiment import Experiment
from quee.settings.paths import Considered
from quee.settings.policies import Policies
from quee.targets import future_errors
from quee.work.keys import key_of

DIVISIONS = {
    "none": (),
    "learning": ("predictor", "validation"),
    "all": ("predictor", "validation", "test"),
}

USED = ("predictor", "validation", "test")
"""Splits that ablations use."""

COMMIT = "commit"
"""The policy of `committed_sweep`; it is not in the registry."""


def _known(name: str) -> str:
    return name if name == COMMIT else METHODS[name].name


class Recipe(Block):
    """The settings in which points may differ."""

    precisions: tuple[PrecisionName, ...]
    gates: tuple[int, ...]
    considered: Considered = Considered()
    """Considered paths within the cached tree."""
    embedding: bool = True
    """Whether a gate sees the compressed embedding, if the cache has it."""
    history: bool = True
    """Whether a gate sees the features of earlier gates."""
    prefix: bool = True
    """Whether a gate sees the precisions of the segments before it."""
    targets: Literal["clusters", "labels", "neighbours", "p_label"] = "clusters"
    clusters: int
    neighbours: int = 50
    hidden: int
    policy: Annotated[str, AfterValidator(_known)] = "plan"
    """An entry of the registry, or `commit`: `plan` decides at the first gate, and its path is followed to the end."""
    first_step: Literal["rollout", "marginal"] = "rollout"
    blend: Share | Literal["auto"] | None = None
    """Used by `fitted_q` only."""

    @property
    def learns(self) -> bool:
        return self.policy == COMMIT or METHODS[self.policy].learned


DECISIONS = {"policy", "first_step", "blend"}
"""Parts of a recipe that change the policy but not the predictors."""


@dataclass(frozen=True)
class Study:
    """Inputs that all points of one experiment share. Digests begin with `source`, the digest of the cache and the code."""

    cache: FeatureCache
    experiment: Experiment
    source: str

    @property
    def budgets(self) -> np.ndarray:
        return np.array(self.experiment.evaluate.budgets, np.float64)

    def fit_digest(self, recipe: Recipe, seed: int) -> str:
        """Key of the predictors that a recipe needs."""
        e = self.experiment
        shared = [
            e.targets.model_dump(include={"ensemble", "shrinkage", "per_node", "seed"}),
            e.predictors.model_dump(),
        ]
        parts = recipe.model_dump(mode="json", exclude=DECISIONS)
        return key_of("fit", self.source, e.ablate.divide, shared, parts, seed)

    def point_digest(self, recipe: Recipe, seed: int) -> str:
        e = self.experiment
        shared = [
            e.ablate.points,
            list(e.evaluate.budgets),
            e.policies.model_dump(mode="json", include={"fitted_q", "seed"}),
        ]
        return key_of("point", self.fit_digest(recipe, seed), shared, recipe.model_dump(mode="json"), seed)


class Selected(Network):
    """A network that sees only some of a gate's inputs; its cost counts only these."""

    columns: np.ndarray

    @classmethod
    def of(cls, network: Network, columns: np.ndarray) -> "Selected":
        found = cls(network.mean, network.scale, network.first, network.last, network.skip)
        found.columns = columns
        return found

    def hidden(self, x: np.ndarray) -> np.ndarray:
        return super().hidden(x[..., self.columns])

    def reader(self, known: np.ndarray) -> Read:
        def read(view: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            hidden = self.hidden(np.concatenate([view, known[rows]], axis=1))
            return hidden, self.outputs(hidden)

        return read

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        return {**super().arrays(prefix), f"{prefix}.columns": self.columns}

    @classmethod
    def from_arrays(cls, prefix: str, arrays: dict[str, np.ndarray]) -> "Selected":
        return cls.of(Network.from_arrays(prefix, arrays), arrays[f"{prefix}.columns"])


def input_columns(recipe: Recipe, gate: int, features: int, precisions: int) -> np.ndarray:
    """The gate's inputs that a recipe's predictor sees: `gate` blocks of features, then `gate` blocks of prefix."""
    first = 0 if recipe.history else (gate - 1) * features
    seen = np.arange(first, gate * features)
    prefix = np.arange(gate * features, gate * (features + precisions))
    return np.concatenate([seen, prefix]) if recipe.prefix else seen


@dataclass(frozen=True)
class Prepared:
    """A recipe's cache under one repetition's division."""

    recipe: Recipe
    seed: int
    predictor: FeatureCache
    validation: FeatureCache
    test: FeatureCache


def prepare(study: Study, recipe: Recipe, seed: int) -> Prepared:
    cache = redivide(study.cache, seed, DIVISIONS[study.experiment.ablate.divide])
    considered = recipe.considered
    if considered.sample is not None:
        considered = considered.model_copy(update={"seed": considered.seed + seed})
    small, nodes = smaller(cache.tree, recipe.precisions, recipe.gates, considered)
    own = cache.select(np.isin(cache.split, USED))
    if len(small) < len(cache.tree) or not recipe.embedding:
        own = view(own, small, nodes, recipe.embedding)
    own = with_ensembles(own, study.experiment.targets.ensemble)
    return Prepared(recipe, seed, *(own.of(split) for split in USED))


def fit(study: Study, prepared: Prepared) -> Predictors:
    """Targets and predictors of a recipe."""
    recipe, predictor, validation = prepared.recipe, prepared.predictor, prepared.validation
    settings, tree = study.experiment.predictors, predictor.tree
    targets = targets_of(
        recipe.targets, predictor, study.experiment.targets, recipe.clusters, recipe.neighbours, prepared.seed
    )
    options = {**settings.model_dump(include=set(Fit.__dataclass_fields__)), "hidden": recipe.hidden}
    options["seed"] += prepared.seed
    networks = []
    for gate in range(1, tree.segments):
        columns = input_columns(recipe, gate, predictor.features.shape[2], len(tree.precisions))
        x, y = rows_at(predictor, gate, targets[gate - 1], options["seed"])
        x_val, y_val = rows_at(validation, gate, future_errors(validation, gate), options["seed"])
        own = int(np.flatnonzero(columns == own_certainty(predictor, gate))[0])
        network, _ = fit_network(x[:, columns], y, x_val[:, columns], y_val, Fit(**options), own)
        networks.append(Selected.of(network, columns))
    return Predictors(networks)


def restore(arrays: dict[str, np.ndarray]) -> Predictors:
    """Predictors from the arrays of fitted ones (`Predictors.arrays()`)."""
    gates = sorted({int(name.split(".")[1]) for name in arrays})
    return Predictors([Selected.from_arrays(f"gate.{gate}", arrays) for gate in gates])


@dataclass(frozen=True)
class Outcome:
    """The results of one repetition of a point."""

    errors: np.ndarray
    """(S, budgets) float32: expected error of every test sample at each budget."""
    area: np.ndarray
    """(S,) float32: mean expected error over the budgets of `auc`."""
    facts: Mapping[str, float]
    """`auc`, `validation_auc`, `nodes`; per gate `rmse`, `ece`, `auroc`, `aurc` on validation, averaged over gates."""


def evaluate(study: Study, prepared: Prepared, predictors: Predictors | None) -> Outcome:
    """Sweep a recipe's policy over λ; budgets are met on validation."""
    caches = {"validation": prepared.validation, "test": prepared.test}
    tree, description = prepared.validation.tree, prepared.validation.description
    setting = Setting(
        caches,
        Costs.of(tree, description),
        study.experiment.ablate.points,
        prepared.predictor,
        predictors,
        options=_options(study, prepared.recipe),
        seed=study.experiment.policies.seed + prepared.seed,
    )
    sweep = _sweep(setting, prepared.recipe)
    floor = Floor.of(setting)
    area = area_errors(sweep, floor)
    facts = {
        "auc": 1 - float(area.mean()),
        "nodes": float(len(tree)),
        "validation_auc": 1 - float(area_errors(sweep, floor, "validation").mean()),
    }
    if predictors is not None:
        facts |= _quality(prepared.validation, predictors)
    errors = errors_within(sweep, study.budgets, floor)
    return Outcome(errors.astype(np.float32), area.astype(np.float32), facts)


def _options(study: Study, recipe: Recipe) -> Policies:
    """The experiment's block `policies` with the recipe's changes."""
    options = study.experiment.policies.model_copy(update={"first_step": recipe.first_step})
    if recipe.blend is None:
        return options
    return options.model_copy(update={"fitted_q": options.fitted_q.model_copy(update={"blend": recipe.blend})})


def _sweep(setting: Setting, recipe: Recipe) -> Sweep:
    return (
        committed_sweep(setting, plan_of(setting)) if recipe.policy == COMMIT else METHODS[recipe.policy].main(setting)
    )


def committed_sweep(setting: Setting, plan: Plan) -> Sweep:
    """`plan` decided once: the first gate's predictions fix the path; later gates decide nothing and cost nothing."""
    tree, costs, values = plan.tree, plan.costs, trade_offs(setting.points)
    starts, ends = tree.nodes_at(1), tree.extensions(1)
    first = np.array([tree.lineage(node)[0] for node in range(len(tree))])
    looked = np.where(tree.gate > 1, costs.head[first], 0.0) if setting.ensembles is None else 0.0
    paid = setting.followed + costs.decision[first] + looked
    taken: dict[str, np.ndarray] = {}
    for split, cache in setting.caches.items():
        seen = views(tree, 1, cache.features)
        found = np.full((len(tree.precisions), len(cache), len(values)), -1, np.int64)
        for index, node in enumerate(starts):
            known = np.flatnonzero(ends[index] >= 0)
            error = plan.read(1, np.full(len(cache), node), seen[:, index]).columns[0][:, known]
            for column, trade_off in enumerate(values):
                best = (error + trade_off * paid[ends[index, known]]).argmin(axis=1)
                found[tree.choice[node], :, column] = ends[index, known][best]
        taken[split] = found
    rows = np.arange(len(setting.caches["validation"]))[:, None]
    score = (setting.errors("validation")[rows, taken["validation"]] + values * paid[taken["validation"]]).mean(axis=1)
    considered = tree.children[-1] >= 0
    begin = np.where(considered[:, None], score, np.inf).argmin(axis=0)  # (Λ,)
    nodes = {split: ends_[begin, :, np.arange(len(values))].T for split, ends_ in taken.items()}
    errors = {split: np.take_along_axis(setting.errors(split), n, axis=1) for split, n in nodes.items()}
    return Sweep("commit", "lambda", values, errors, {split: paid[n] for split, n in nodes.items()}, nodes)


def _quality(validation: FeatureCache, predictors: Predictors) -> dict[str, float]:
    """Means over gates of the predictors' validation metrics, over the known ones."""
    found = []
    for gate in range(1, validation.tree.segments):
        p = predictions(predictors, validation, gate)
        found.append(quality(p, future_errors(validation, gate)))
    return {name: value for name, value in over_gates(found).items() if value is not None}
