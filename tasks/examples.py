"""Which test images take which path, with examples of them, for stage `report`."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.cache.answers import read_answers
from quee.data.sheet import KINDS, in_turns, tile
from quee.data.source import ImageSource, open_dataset
from quee.evaluation.losses import REPEATS, accuracy_losses
from quee.evaluation.measured import float_errors
from quee.evaluation.near import DROPS
from quee.evaluation.pairing import by_class
from quee.evaluation.paths_taken import PathsTaken, paths_taken, policy_and_sweep
from quee.policies.base import Basis
from quee.policies.files import read_learned, read_predictors
from quee.policies.registry import METHODS
from quee.policies.sweep import Setting, Sweep
from quee.precision import FLOAT
from quee.report.against_float import AgainstFloat
from quee.report.inputs import Asked, Example, Inputs, Path
from quee.runtime.operating import OperatingPoints, Options, Point
from quee.work.io import read_json
from tasks.stage import Stage

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment

EXAMPLES = 6
"""Most example images of a path."""
PICTURED = 8
"""Most paths with example images: those that most images take."""
DIFFERING = 8
"""Most example images on which the float network and what is deployed differ, of each of the two kinds."""
PAIRS = 24
"""Most classes with an easiest and a hardest image."""


def inputs_of(stage: Stage, method_shown: str) -> tuple[Inputs | None, AgainstFloat | None]:
    """What the bundle's policy, in words `method_shown`, does at the bundle's budget with the test images of the first rotation
    and seed; and the same beside the float network.

    None where the policy cannot be fitted on this data, and where the float network's answers are not known.
    """
    settings = stage.experiment
    setting = first_setting(settings, stage.input)
    method = METHODS[settings.bundle.policy]
    known = policy_and_sweep(setting, method)
    if known is None:
        return None, None
    found = paths_taken(setting, *known, settings.bundle.budget)
    described = read_json(stage.input("prepare") / "dataset.json")
    shown = None
    if settings.report.images:
        images = open_dataset(stage.data, settings.prepare.dataset, described["files"])
        shown = Examples(found, described["classes"], images)
    pairs = [pair for label in range(len(described["classes"])) if (pair := found.extremes(label))]
    hardest = sorted(pairs, key=lambda pair: (-found.cost[pair[1]], pair))[:PAIRS]
    spent = found.spent()
    inputs = Inputs(
        method_shown,
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
        asked_of(setting, known[1]),
    )
    return inputs, against_float_of(setting, found, described["classes"], shown)


def asked_of(setting: Setting, sweep: Sweep) -> Asked | None:
    """What a bundle with the sweep's points answers to a request for the least of `DROPS`; None without the float network."""
    floating = float_errors(setting, "validation")
    if floating is None:
        return None
    assert sweep.knobs is not None and sweep.first is not None
    errors, costs = (
        {split: values[:, sweep.order] for split, values in by.items()} for by in (sweep.errors, sweep.costs)
    )
    losses = accuracy_losses(errors["validation"], floating, REPEATS, groups=sweep.groups)
    points = [
        Point(
            float(number),
            int(sweep.first[at]),
            float(cost),
            float(1 - error),
            accuracy_loss=loss,
            accuracy_loss_limit=limit,
        )
        for number, (at, cost, error, loss, limit) in enumerate(
            zip(
                sweep.order,
                costs["validation"].mean(axis=0),
                errors["validation"].mean(axis=0),
                *(values.tolist() for values in losses),
                strict=True,
            )
        )
    ]
    budget, asked = points[-1].cost, Options(accuracy_loss=min(DROPS))
    served = OperatingPoints(setting.tree, setting.costs.routed, points, budget).choose(asked)
    at = int(served.low.trade_off)
    limit = float(losses[1][at])
    accuracy, cost = 1 - float(errors["test"][:, at].mean()), float(costs["test"][:, at].mean())
    return Asked(min(DROPS), served.met, limit, len(floating), accuracy, cost)


def against_float_of(
    setting: Setting, found: PathsTaken, classes: Sequence[str], shown: "Examples | None"
) -> AgainstFloat | None:
    """The test images beside the float network, with examples where images are shown; None without the float network."""
    floating = float_errors(setting)
    if floating is None:
        return None
    _, nodes, references = next(uniform for uniform in setting.uniform() if uniform[0] == FLOAT)
    spent = np.full(len(found), setting.uniform_costs(references)["static"][nodes[-1]])
    rows = by_class(found.label, (~floating, found.right), (spent, found.cost))
    differ = {"lost": found.right < ~floating, "gained": found.right > ~floating}
    examples: dict[str, list[Example]] = {"lost": [], "gained": []}
    if shown is not None:
        answers = {"lost": found.answer}
        if references:
            answers["gained"] = setting.caches["test"].reference_prediction[:, nodes[-1]]
        for name, rows_of in differ.items():
            at = np.flatnonzero(rows_of)
            for row in at[in_turns(found.label[at], DIFFERING)].tolist():
                answer = None if (known := answers.get(name)) is None else classes[int(known[row])]
                who = "answered" if name == "lost" else "float answered"
                examples[name].append(replace(shown(row), answer=f"{who} {answer}" if answer is not None else ""))
    table = [{**asdict(row), "class": classes[row.label]} for row in rows]
    return AgainstFloat(table, examples["lost"], examples["gained"])


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
