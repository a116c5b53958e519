"""The page of two results: `quee compare A B --html`."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from quee.data.sheet import in_turns
from quee.data.source import ImageSource, open_dataset
from quee.errors import IntegrityError, QueeError, UsageError
from quee.evaluation.pairing import Outcome, Pairing, outcome_of
from quee.policies.registry import METHODS
from quee.report import comparison as page
from quee.report.inputs import Steps
from quee.report.markup import bits
from quee.report.sentence import Summary, deployed_curve
from quee.settings.bundle import Bundle
from quee.settings.experiment import Experiment, parse_resolved
from quee.work.io import file_digest, read_json, read_table, refuse_unwritable, write_bytes
from tasks.dvc.lock import ExperimentResult, out_folder
from tasks.examples import Examples, first_of, first_setting
from tasks.mlflow.compare import Side, differences, settings_differences
from tasks.verbs.results import Results, read_results

FOLDER = Path(".quee") / "compare"
EXAMPLES = 8
"""Most example images of each kind of change."""
READ = {
    "prepare": ("dataset.json",),
    "features": ("tree.json",),
    **dict.fromkeys(("targets", "predictors", "policies"), ("*.safetensors",)),
    "evaluate": ("metrics.json", "budgets.parquet", "bands.parquet", "curve.parquet"),
}
"""By stage, patterns of the files that a page is made of."""
SAME = ("dataset", "files", "answers", "classes")
"""Entries of `dataset.json` that decide whether sample ids and labels mean the same."""


def write_page(root: Path, first: Side, second: Side, file: Path | None) -> tuple[page.Comparison, Path]:
    """Write the page of two results into a file, by default in `FOLDER`; returns what it says, and the file.

    Raises UsageError for a side that is not the result of a whole experiment, and for a file that cannot be written.
    """
    if file is not None:
        refuse_unwritable(file)
    made = [
        None if side.result is None else {name: stage.entry for name, stage in side.result.stages.items()}
        for side in (first, second)
    ]
    if made[0] and made[0] == made[1]:
        raise UsageError(f"{first.label} and {second.label} are the same result")
    with opened(root, first, second) as sides:
        found = compared(root, *sides)
    name = "-".join(re.sub(r"[^\w.]+", "_", side.label).strip("_") for side in (first, second))
    target = root / FOLDER / f"{name}.html" if file is None else file
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, page.comparison_page(found).encode())
    return found, target


def verdict(root: Path, first: Side, second: Side) -> list[str]:
    """Which result is better and what either gains by routing, in sentences, by what was reported; none for what is not the
    result of a whole experiment."""
    try:
        with opened(root, first, second) as (one, other):
            found = page.Comparison((one.shown(), other.shown()), {}, {}, same_images(one, other))
    except QueeError:
        return []
    return [said for said in (page.verdict(found), page.routing(found)) if said]


@dataclass(frozen=True)
class Opened:
    """One result with its files."""

    root: Path
    side: Side
    aside: Path
    """A folder for links to files that are not in `artifacts/`."""
    _folders: dict[str, Path | None] = field(default_factory=dict, repr=False)

    def folder(self, stage: str) -> Path:
        """Folder with the files of a stage's result; raises IntegrityError where it is not to be found."""
        if stage not in self._folders:
            result, place = self.result.stages.get(stage), self.aside / stage
            if result is None:
                raise IntegrityError(f"it has no result of stage {stage!r}")
            if not self.side.here:
                place.mkdir(parents=True)
            self._folders[stage] = out_folder(self.root, result, self.side.here, place)
        found = self._folders[stage]
        if found is None:
            raise IntegrityError(f"the result of stage {stage!r} is not on this machine")
        return found

    @cached_property
    def result(self) -> ExperimentResult:
        """Raises UsageError for a side that is not the result of a whole experiment."""
        if self.side.result is None:
            raise UsageError(f"{self.side.label} is the run of a stage; a page compares results of experiments")
        return self.side.result

    @cached_property
    def experiment(self) -> Experiment:
        """The recorded settings; raises UsageError where they are not valid any more."""
        return parse_resolved(self.result.experiment, json.dumps(self.result.settings), "its settings")

    @cached_property
    def bundle(self) -> Bundle:
        """What is deployed; by the defaults where it was not recorded."""
        recorded = self.result.settings.get("bundle", {})
        return Bundle.model_validate({key: recorded[key] for key in ("policy", "budget") if key in recorded})

    @cached_property
    def results(self) -> Results:
        return read_results(self.result.experiment, self.folder("evaluate"), self.folder("features") / "tree.json")

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """`prepare/dataset.json`"""
        found: dict[str, Any] = read_json(self.folder("prepare") / "dataset.json")
        return found

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of a table of stage `evaluate`; empty where there is none."""
        file = self.folder("evaluate") / f"{name}.parquet"
        return list(read_table(file).to_pylist()) if file.is_file() else []

    def test_ids(self) -> np.ndarray | None:
        """(T,) ids of the test images; None where they are not recorded here."""
        file = self.folder("prepare") / "splits.parquet"
        if not file.is_file():
            return None
        table = read_table(file, ["sample_id", "split"])
        ids: np.ndarray = table["sample_id"].to_numpy()[np.array(table["split"].to_pylist()) == "test"]
        return np.sort(ids)

    def shown(self) -> page.Side:
        found = self.results
        method = deployed_curve(self.bundle.policy, found.metrics.get("methods", {}))
        summary = Summary(found.metrics, found.points, method or "", self.bundle.budget, found.labelled)
        digests: dict[str, str] = {}
        for stage, patterns in READ.items():
            with suppress(IntegrityError):
                files = sorted(file for pattern in patterns for file in self.folder(stage).glob(pattern))
                digests |= {f"{stage}/{file.name}": file_digest(file) for file in files}
        return page.Side(
            self.side.label,
            summary,
            self.rows("curve"),
            self.rows("bands"),
            self.dataset["dataset"],
            digests,
            read_json(self.folder("features") / "tree.json")["unit_bitflops"],
        )

    def outcome(self, budget: float, budgets: list[float]) -> Outcome:
        """The test images under what is deployed; raises QueeError where the cache or the policy is not here."""
        if not any(self.folder("features").glob("part-*.parquet")):
            raise IntegrityError("the answers to single images (stage features) are not part of the result here")
        method = METHODS[self.bundle.policy]
        found = outcome_of(first_setting(self.experiment, self.folder), method, budget, budgets)
        if found is None:
            raise IntegrityError(f"its policy {method.name} cannot be fitted")
        return found

    def images(self) -> ImageSource | None:
        """The images of its data set; None where the experiment does not show them."""
        if not self.experiment.report.images:
            return None
        name = self.experiment.prepare.dataset
        return open_dataset(self.root / "data" / name, name, self.dataset["files"])


@contextmanager
def opened(root: Path, first: Side, second: Side) -> Iterator[tuple[Opened, Opened]]:
    """Two results with their files, for the time of the block."""
    with tempfile.TemporaryDirectory() as aside:
        yield Opened(root, first, Path(aside) / "first"), Opened(root, second, Path(aside) / "second")


def compared(root: Path, first: Opened, second: Opened) -> page.Comparison:
    """Everything that the page says; what a side lacks is left out, with the reason."""
    sides = (first.shown(), second.shown())
    same = same_images(first, second)
    shared, left_out = None, list[str]()
    if not same_data(first, second):
        left_out.append(
            "What changes for which classes and images: the two have no images in common, because their data sets differ."
        )
    else:
        try:
            shared, left_out = shared_images(first, second)
        except QueeError as error:
            left_out.append(f"What changes for which classes and images: {error}.")
    settings = settings_differences(first.side, second.side)
    numbers = differences(first.side.metrics, second.side.metrics)
    if not (first.side.has_defaults and second.side.has_defaults):
        left_out.append("Settings that only one of the two recorded: an older result has no defaults.")
    return page.Comparison(sides, settings, numbers, same, shared, left_out)


def same_data(first: Opened, second: Opened) -> bool:
    return all(first.dataset.get(key) == second.dataset.get(key) for key in SAME)


def same_images(first: Opened, second: Opened) -> bool | None:
    """Whether both were tested on the same images; None where that is not known."""
    if not same_data(first, second):
        return False
    made = [one.result.stages["prepare"].outs for one in (first, second)]
    if [*made[0].values()] == [*made[1].values()]:
        return True
    ours, theirs = first.test_ids(), second.test_ids()
    return None if ours is None or theirs is None else bool(np.array_equal(ours, theirs))


def shared_images(first: Opened, second: Opened) -> tuple[page.Shared | None, list[str]]:
    """Both results on the images that both were tested on, and what is left out of it.

    Raises QueeError, with the name of the side, where one of them lacks what was cached or fitted.
    """
    budget = first.bundle.budget
    budgets = sorted({row["budget"] for row in first.results.points} & {row["budget"] for row in second.results.points})
    both, sources = [], []
    for one in (first, second):
        try:
            both.append(one.outcome(budget, budgets))
            sources.append(one.images())
        except QueeError as error:
            raise QueeError(f"{one.side.label}: {error}") from None
    pairing = Pairing.of(*both)
    if pairing is None:
        return None, [
            "What changes for which classes and images: the two have no test images with the same labels in common."
        ]
    hidden = [one.side.label for one, source in zip((first, second), sources, strict=True) if source is None]
    left_out = (
        [f"Example images: {' and '.join(hidden)} does not show them (`report.images: false`)."] if hidden else []
    )
    overall, *at = pairing.differences(first.experiment.evaluate.seed)
    taken = (pairing.first.taken, pairing.second.taken)
    classes = first.dataset["classes"]
    precisions = sorted({str(precision) for one in taken for precision in one.tree.precisions}, key=bits)
    before, after = (Examples(own, classes, source) for own, source in zip(taken, sources, strict=True))
    kinds = []
    for name, rows in pairing.kinds().items():
        chosen = [] if hidden else rows[in_turns(taken[0].label[rows], EXAMPLES)].tolist()
        kinds.append(page.Kind(name, len(rows), [(before(row), after(row)) for row in chosen]))
    gained = taken[1].right & ~taken[0].right
    lost = taken[0].right & ~taken[1].right
    parts = dict.fromkeys(first_of(opened.dataset, opened.experiment) for opened in (first, second))
    shared = page.Shared(
        images=len(pairing),
        tested=(len(both[0].taken), len(both[1].taken)),
        budget=budget,
        overall=overall,
        at_budgets=dict(zip(budgets, at, strict=True)),
        classes=[{**asdict(row), "class": classes[row.label]} for row in pairing.by_class()],
        moved=int(pairing.moved().sum()),
        changed=(int(gained.sum()), int(lost.sum())),
        kinds=kinds,
        paths=path_changes(pairing, gained, lost),
        steps=(Steps(taken[0].tree.segments, precisions), Steps(taken[1].tree.segments, precisions)),
        first_of=max(parts, key=len),
    )
    return shared, left_out


def path_changes(pairing: Pairing, gained: np.ndarray, lost: np.ndarray) -> list[dict[str, Any]]:
    """How many images go from which path to which, most first; of them, those in `gained` (S,) and in `lost` (S,)."""
    ends = (pairing.first.taken, pairing.second.taken)
    ways = [tuple(own.tree.name(int(own.node[row])) for own in ends) for row in range(len(pairing))]
    moved = pairing.moved()
    counts = [Counter(ways[row] for row in np.flatnonzero(moved & chosen)) for chosen in (moved, gained, lost)]
    order = sorted(counts[0], key=lambda way: (-counts[0][way], way))
    return [
        {"first": way[0], "second": way[1], "images": counts[0][way], "gained": counts[1][way], "lost": counts[2][way]}
        for way in order
    ]
