"""Static paths: all samples take the same path."""

from collections.abc import Iterator

import numpy as np

from quee.hull import hull
from quee.policies.confidence import Confidence
from quee.policies.sweep import Setting, Sweep, hull_of
from quee.policies.thresholds import Arrays, sequences


def static_paths(setting: Setting) -> Iterator[Sweep]:
    """`static_PRECISION`: the whole network at one precision."""
    for name, nodes, references in setting.uniform():
        cost = setting.uniform_costs(references)["static"][nodes[-1]]
        errors = {split: setting.own_errors(split, references)[:, nodes[-1:]] for split in setting.splits}
        yield Sweep.at(f"static_{name}", errors, np.array([cost]))


def static_hull(setting: Setting) -> Iterator[Sweep]:
    """`static_hull`: the upper convex hull of all static paths of the tree, chosen on validation."""
    cost = setting.costs.static
    accuracy = 1 - setting.own_errors("validation").mean(axis=0)
    kept = hull(cost, accuracy)
    errors = {split: setting.own_errors(split)[:, kept] for split in setting.splits}
    yield Sweep.at("static_hull", errors, cost[kept], nodes=dict.fromkeys(setting.splits, kept))


def small_static(setting: Setting) -> Iterator[Sweep]:
    """`small_static`: networks cut off at each gate, at every uniform precision and reference; their hull on validation.

    This is a smaller network without further training: the backbone's first segments and the exit head fitted for them.
    """
    sweeps = []
    for _, nodes, references in setting.uniform():
        cost = setting.uniform_costs(references)["static"][nodes]
        errors = {split: setting.own_errors(split, references)[:, nodes] for split in setting.splits}
        sweeps.append(Sweep.at("", errors, cost))
    yield hull_of("small_static", sweeps)


class Paths(Confidence):
    """All samples of a point take the same path of the tree, as a bundle executes it.

    What is executed is counted: the heads of the gates passed too, which answer together where ensembles do. `static_hull`
    counts the last head alone.
    """

    @classmethod
    def points(cls, setting: Setting) -> Arrays:
        tree, every = setting.tree, list(sequences(setting.tree))
        threshold, sequence = np.full((len(tree), tree.segments - 1), np.inf), []
        for node in range(len(tree)):
            own = tuple(tree.choice[tree.lineage(node)].tolist())
            sequence.append(next(way for way in every if way[: len(own)] == own))
            threshold[node, len(own) - 1 :] = -np.inf
        value = np.full(len(tree), np.nan)
        return {"sequence": np.array(sequence, np.int64), "threshold": threshold, "value": value}
