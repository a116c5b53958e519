"""The grid: every axis changes one thing in the experiment's settings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from quee.evaluation.ablation.fit import COMMIT, Recipe
from quee.evaluation.ablation.rerun import AS_CACHED, Variant, variant_tree
from quee.evaluation.ablation.views import EMBEDDING
from quee.paths import PathTree
from quee.policies.registry import in_role
from quee.settings.ablate import Ablate, Axis
from quee.settings.experiment import Experiment
from quee.settings.paths import Considered

BASE = "base"
"""Name of the point with which all others are compared."""


@dataclass(frozen=True)
class Point:
    """One row of the table."""

    axis: str
    name: str
    recipe: Recipe
    variant: Variant = AS_CACHED

    @property
    def title(self) -> str:
        """The name shown to users, such as `clusters/50`."""
        return f"{self.axis}/{self.name}"

    def facts(self) -> dict[str, Any]:
        """The point's entry in `points.json`."""
        return self.recipe.model_dump(mode="json") | self.variant.facts()


def base_recipe(experiment: Experiment, tree: PathTree) -> Recipe:
    """The experiment as it stands, with policy `plan`."""
    return Recipe(
        precisions=tuple(map(str, tree.precisions)),
        gates=tuple(range(1, tree.segments + 1)),
        clusters=experiment.targets.clusters,
        neighbours=experiment.ablate.neighbours,
        hidden=experiment.predictors.hidden,
        first_step=experiment.policies.first_step,
    )


def points(experiment: Experiment, tree: PathTree, feature_names: Sequence[str]) -> list[Point]:
    """The grid, the base first, in the order of `ablate.axes`; a point equal to an earlier one is left out.

    A network of one segment has no gate that decides, so it has only the axes `WITHOUT_GATES`. `tree` and
    `feature_names` are the cache's. Raises UsageError for an added precision that is not among the references.
    """
    base, world = base_recipe(experiment, tree), World(experiment, tree, feature_names)
    found = [Point(BASE, "as configured", base)]
    seen = {(base, AS_CACHED)}
    for axis in experiment.ablate.axes:
        if tree.segments == 1 and axis not in WITHOUT_GATES:
            continue
        for name, changes in AXES[axis](world):
            if (variant := changes.pop(VARIANT, AS_CACHED)) != AS_CACHED:
                variant_tree(experiment, tree, variant)
            recipe = base.model_copy(update=changes)
            if (recipe, variant) not in seen:
                seen.add((recipe, variant))
                found.append(Point(axis, name, recipe, variant))
    return found


@dataclass(frozen=True)
class World:
    """The information that an axis may use."""

    experiment: Experiment
    tree: PathTree
    feature_names: Sequence[str]

    @property
    def settings(self) -> Ablate:
        return self.experiment.ablate


WITHOUT_GATES: tuple[Axis, ...] = ("precisions", "first_step", "reference")
VARIANT = "variant"
"""Key of a point's network among its changes, where that is not the cached one."""
Variations = Iterator[tuple[str, dict[str, Any]]]


def _clusters(world: World) -> Variations:
    for count in world.settings.clusters:
        yield f"K = {count}", {"clusters": count}


def _targets(world: World) -> Variations:
    names = {
        "labels": "errors as they are (0/1)",
        "neighbours": f"mean error of {world.settings.neighbours} nearest neighbours",
        "p_label": "1 - probability of the label",
    }
    for kind in world.settings.targets:
        yield names[kind], {"targets": kind}


def _hidden(world: World) -> Variations:
    for units in world.settings.hidden:
        yield f"{units} hidden units", {"hidden": units}


def _features(world: World) -> Variations:
    if any(name.startswith(EMBEDDING) for name in world.feature_names):
        yield "without the compressed embedding", {"embedding": False}
        yield "uncertainty of this gate alone", {"embedding": False, "history": False, "prefix": False}
    yield "this gate alone, not those before", {"history": False}
    yield "without the prefix", {"prefix": False}
    yield "this gate alone, without the prefix", {"history": False, "prefix": False}


def _heads(world: World) -> Variations:
    names = {"float": "fitted behind the float network", "mixed": "fitted behind mixed precisions"}
    for prefixes in world.settings.heads:
        if prefixes != world.experiment.exits.prefixes:
            yield names[prefixes], {VARIANT: Variant(heads=prefixes)}


def _considered(world: World) -> Variations:
    for rules in world.settings.considered:
        yield considered_name(rules), {"considered": rules}


def considered_name(rules: Considered) -> str:
    parts = []
    if rules.max_switches is not None:
        parts.append(f"at most {rules.max_switches} switches" if rules.max_switches else "uniform")
    if rules.monotone is not None:
        parts.append("precision never falls" if rules.monotone == "up" else "precision never rises")
    if rules.sample is not None:
        parts.append(f"{rules.sample} drawn and the uniform")
    return ", ".join(parts) or "all"


def _precisions(world: World) -> Variations:
    names = tuple(map(str, world.tree.precisions))
    without = [tuple(name for name in names if name != other) for other in names] if len(names) > 2 else []
    for kept in world.settings.precisions or (*without, *((name,) for name in names)):
        yield " ".join(kept), {"precisions": kept}
    for added in world.settings.added:
        if added in names:  # a tree chosen by measurement may have it already
            continue
        whole = (*names, added)
        yield " ".join(whole), {"precisions": whole, VARIANT: Variant(added=added)}


def _gates(world: World) -> Variations:
    last = world.tree.segments
    every = tuple(range(1, last + 1))
    dropped = [tuple(gate for gate in every if gate != out) for out in every[:-1]] if last > 2 else []
    halves = [tuple(range(2, last + 1, 2))] if last > 3 and last % 2 == 0 else []
    for kept in world.settings.gates or (*dropped, *halves):
        yield "gates " + " ".join(map(str, kept)), {"gates": kept}


def _first_step(world: World) -> Variations:
    for kind in ("rollout", "marginal"):
        yield kind, {"first_step": kind}


def _commit(world: World) -> Variations:
    yield "decided once, at gate 1", {"policy": COMMIT}
    yield "decided at gate 0: static paths", {"policy": in_role("reference")[0].name}


def _fitted_q(world: World) -> Variations:
    for share in world.settings.blend:
        yield f"blend {share}", {"policy": "fitted_q", "blend": share}


def _reference(world: World) -> Variations:
    for method in in_role("reference", "rival"):
        yield method.name, {"policy": method.name}


AXES: dict[str, Callable[[World], Variations]] = {
    "clusters": _clusters,
    "targets": _targets,
    "hidden": _hidden,
    "features": _features,
    "heads": _heads,
    "considered": _considered,
    "precisions": _precisions,
    "gates": _gates,
    "first_step": _first_step,
    "commit": _commit,
    "fitted_q": _fitted_q,
    "reference": _reference,
}
"""By axis, the names of its points and their changes to the base."""
