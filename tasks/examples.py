"""Which test images take which path, with examples of them, for stage `report`."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.cache.answers import read_answers
from quee.data.sheet import KINDS, in_turns, tile
from quee.data.source import ImageSource, open_dataset
from quee.evaluation.paths_taken import PathsTaken, paths_taken, policy_and_sweep
from quee.policies.base import Basis
from quee.policies.files import read_learned, read_predictors
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting
from quee.report.inputs import Example, Inputs, Path
from quee.work.io import read_json
from tasks.stage import Stage

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment

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
    setting = first_setting(settings, stage.input)
    method = METHODS[settings.bundle.policy]
    known = policy_and_sweep(setting, method)
    if known is None:
        return None
    found = paths_taken(setting, *known, settings.bundle.budget)
    described = read_json(stage.input("prepare") / "dataset.json")
    shown = None
    if settings.report.images:
        images = open_dataset(stage.data, settings.prepare.dataset, described["files"])
        shown = Examples(found, described["classes"], images)
    pairs = [pair for label in range(len(described["classes"])) if (pair := found.extremes(label))]
    hardest = sorted(pairs, key=lambda pair: (-found.cost[pair[1]], pair))[:PAIRS]
    spent = found.spent()
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
        first_of(described, settings),
    )


def first_setting(settings: "Experiment", folder: Callable[[str], Folder]) -> Setting:
    """Validation and test images of the first rotation with the policies of the first seed, which a bundle holds.

    `folder` gives the folder of a stage's result.
    """
    cache = read_answers(folder("features"), folder("targets"), log_probs=True)
    basis = Basis(cache.tree, cache.description, read_predictors(folder("predictors")))
    setting = Setting.of(cache, ("validation", "test"), settings.policies, settings.evaluate.points)
    return replace(setting, policies=read_learned(folder("policies"), basis))


def first_of(described: dict[str, Any], settings: "Experiment") -> str:
    """Words on what part of the test images and fits `first_setting` is, to follow a number of images; empty where it is all.

    `described` is `prepare/dataset.json`.
    """
    parts = ["of the first fold"] * ("folds" in described)
    parts += ["with the policy of the first seed"] * (settings.evaluate.seeds > 1)
    return f", {' and '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Examples:
    """Makes examples of rows of the images taken."""

    taken: PathsTaken
    classes: Sequence[str]
    images: ImageSource | None
    """None where the images are not shown."""

    def __call__(self, row: int) -> Example:
        return Example(
            self.classes[int(self.taken.label[row])],
            self.taken.tree.name(int(self.taken.node[row])),
            float(self.taken.cost[row]),
            bool(self.taken.right[row]),
            self._address(int(self.taken.sample[row])),
        )

    def _address(self, sample: int) -> str:
        if self.images is None:
            return ""
        sink = BytesIO()
        tile(self.images.decode_image(sample)).save(sink, **KINDS[".webp"])  # type: ignore[arg-type]
        return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _paths(found: PathsTaken, shown: Examples | None) -> list[Path]:
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
