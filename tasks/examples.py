"""Which test images take which path, with examples of them, for stage `report`."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np

from quee.cache.answers import read_answers
from quee.data.sheet import KINDS, in_turns, tile
from quee.data.source import ImageSource, open_dataset
from quee.evaluation.taken import Taken, taken
from quee.policies.base import Basis
from quee.policies.files import read_learned, read_predictors
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting
from quee.report.inputs import Example, Inputs, Path
from quee.work.io import read_json
from tasks.stage import Stage

EXAMPLES = 6
"""Most example images of a path."""
PICTURED = 8
"""Most paths with example images: those that most images take."""
PAIRS = 24
"""Most classes with an easiest and a hardest image."""


def inputs_of(stage: Stage) -> Inputs | None:
    """What the bundle's policy does at the bundle's budget with the test images, of the first rotation and seed.

    None where the policy cannot be fitted on this data.
    """
    settings = stage.experiment
    cache = read_answers(stage.input("features"), stage.input("targets"), log_probs=True)
    basis = Basis(cache.tree, cache.description, read_predictors(stage.input("predictors")))
    setting = Setting.of(cache, ("validation", "test"), settings.policies, settings.evaluate.points)
    setting = replace(setting, policies=read_learned(stage.input("policies"), basis))
    method = METHODS[settings.bundle.policy]
    found = taken(setting, method, settings.bundle.budget)
    if found is None:
        return None
    described = read_json(stage.input("prepare") / "dataset.json")
    shown = None
    if settings.report.images:
        shown = _Shown(
            found, described["classes"], open_dataset(stage.data, settings.prepare.dataset, described["files"])
        )
    pairs = [pair for label in range(len(described["classes"])) if (pair := found.extremes(label))]
    hardest = sorted(pairs, key=lambda pair: (-found.cost[pair[1]], pair))[:PAIRS]
    spent = found.spent()
    parts = ["of the first fold"] * ("folds" in described) + ["with the policy of the first seed"] * (
        settings.evaluate.seeds > 1
    )
    return Inputs(
        method.shown,
        settings.bundle.budget,
        len(found),
        found.tree.segments,
        [str(precision) for precision in found.tree.precisions],
        _paths(found, shown),
        [(shown(easy), shown(hard)) for easy, hard in sorted(hardest, key=lambda p: found.label[p[0]])]
        if shown
        else [],
        len(pairs),
        spent,
        float(found.cost.mean()) - sum(sum(by.values()) for by in spent),
        f", {' and '.join(parts)}" if parts else "",
    )


@dataclass(frozen=True)
class _Shown:
    """Makes examples of rows of the images taken."""

    taken: Taken
    classes: Sequence[str]
    images: ImageSource

    def __call__(self, row: int) -> Example:
        sink = BytesIO()
        tile(self.images.decode_image(int(self.taken.sample[row]))).save(sink, **KINDS[".webp"])  # type: ignore[arg-type]
        return Example(
            self.classes[int(self.taken.label[row])],
            self.taken.tree.name(int(self.taken.node[row])),
            float(self.taken.cost[row]),
            bool(self.taken.right[row]),
            f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}",
        )


def _paths(found: Taken, shown: _Shown | None) -> list[Path]:
    """Every path taken by rising cost; those that most images take with examples, of as many classes as possible."""
    nodes, counts = np.unique(found.node, return_counts=True)
    pictured = set(nodes[np.argsort(-counts, kind="stable")][:PICTURED].tolist())
    paths = []
    for node, count in zip(nodes.tolist(), counts.tolist(), strict=True):
        rows = np.flatnonzero(found.node == node)
        examples = []
        if shown and node in pictured:
            examples = [shown(int(row)) for row in rows[in_turns(found.label[rows], EXAMPLES)]]
        name, cost = found.tree.name(node), float(found.cost[rows].mean())
        paths.append(Path(name, count / len(found), cost, float(found.right[rows].mean()), examples))
    return sorted(paths, key=lambda path: (path.cost, path.name))
