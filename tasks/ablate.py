"""Stage `ablate`: one grid of ablations on the feature cache. Not part of the pipeline: `quee ablate EXPERIMENT` runs it.

Points are kept in `.quee/ablations` under digests of their inputs. So a larger grid computes only its new points, and an
interrupted grid continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from quee.cache.read import FeatureCache, read_cache
from quee.evaluation.ablation.fit import DIVISIONS, Study
from quee.evaluation.ablation.grid import Point, points
from quee.evaluation.ablation.rerun import AS_CACHED, Variant
from quee.evaluation.ablation.run import Points, compute, missing, outcomes
from quee.evaluation.ablation.table import compare, difference_rows, repetition_rows, summary
from quee.measure import measure_of
from quee.report.ablations import forest
from quee.work.io import file_digest, write_bytes, write_json, write_table
from quee.work.keys import key_of, versions
from quee.work.progress import progress
from quee.work.threads import one_thread
from tasks.ablate_network import study_of, variant_cache
from tasks.dvc.dependencies import digest as digest_of
from tasks.dvc.dependencies import used_by
from tasks.stage import Stage, main

ROOT = Path(__file__).parent.parent
STORE = Path(".quee") / "ablations"
POINTS = "quee/evaluation/ablation/fit.py"
"""The module that computes a point."""
NO_NUMBERS = ("quee/network/", "quee/cache/read.py", "quee/work/threads.py")
"""Imports of that module that decide no number: no network runs, and the cache's content has its own digest."""


def code() -> list[str]:
    """Files that decide a point's numbers; files that only arrange or show numbers are left out."""
    return sorted(file for file in used_by("evaluate", "", start=POINTS) if not file.startswith(NO_NUMBERS))


def run(stage: Stage) -> None:
    """Fit and evaluate every point of the grid on several divisions or seeds; compare each with the experiment as it is."""
    settings = stage.experiment.ablate
    cache = read_cache(stage.input("features"), heads=stage.experiment.targets.ensemble)
    base = Study(cache, stage.experiment, source(ROOT, stage.input("features")))
    grid = points(stage.experiment, cache.tree, cache.description["feature_names"])
    store = Points(STORE)
    parts = [_part(stage, base, variant, grid, store) for variant in dict.fromkeys(point.variant for point in grid)]
    for part in parts:  # the network first: its time would distort the estimate for the rest
        part.cache(stage, base, store)
    total, left = len(grid) * settings.seeds, sum(len(part.todo) for part in parts)
    with one_thread(), progress("ablations", total, total - left) as bar:
        for part in parts:
            study = replace(part.study, cache=part.cache(stage, base, store))
            for point, seed, outcome in compute(study, part.todo, store):
                bar.advance(note=f"{point.title} ({seed + 1} of {settings.seeds}): auc {outcome.facts['auc']:.4f}")
    rows = {part.variant: iter(outcomes(part.study, part.points, store)) for part in parts}
    found = [next(rows[point.variant]) for point in grid]
    budgets = stage.experiment.evaluate.budgets
    ratio, groups = _ratio(cache, settings.divide), cache.of("test").group
    area, at_budgets = compare(found, ratio, settings.bootstrap, settings.seed, groups)
    differences = difference_rows(grid, budgets, area, at_budgets)
    measure = measure_of(cache.description)
    metrics = {"experiment": stage.experiment.name, **measure.facts, **summary(grid, found, area, differences)}
    write_table(stage.out / "ablations.parquet", pa.Table.from_pylist(repetition_rows(grid, found)))
    write_table(stage.out / "differences.parquet", pa.Table.from_pylist(differences))
    write_bytes(stage.out / "ablations.svg", forest(differences, stage.experiment.name, measure).encode())
    write_json(stage.out / "metrics.json", metrics)
    write_json(stage.out / "points.json", {point.title: point.facts() for point in grid})
    store.prune()


@dataclass(frozen=True)
class Part:
    """Points of a grid that share a network, and so a feature cache."""

    variant: Variant
    study: Study
    """Holds the experiment's own cache, which `cache()` replaces before points are computed."""
    points: list[Point]
    todo: list[tuple[Point, int]]
    digest: str = ""

    def cache(self, stage: Stage, base: Study, store: Points) -> FeatureCache:
        """The cache that points are computed from; the network runs unless its results are kept."""
        if self.variant == AS_CACHED or not self.todo:
            return base.cache
        return variant_cache(stage, base.cache, self.variant, store, self.digest)


def _part(stage: Stage, base: Study, variant: Variant, grid: Sequence[Point], store: Points) -> Part:
    own = [point for point in grid if point.variant == variant]
    if variant == AS_CACHED:
        return Part(variant, base, own, missing(base, own, store))
    study, digest = study_of(stage, base, variant, ROOT)
    store.touch(digest)
    return Part(variant, study, own, missing(study, own, store), digest)


def source(root: Path, features: Path) -> str:
    """Digest of what all points depend on: the cache (through `tree.json`), the code and the libraries."""
    used = [[name, digest_of(root, name)] for name in code()]
    return key_of(file_digest(features / "tree.json"), versions(), used)


def _ratio(cache: FeatureCache, divide: str) -> float | None:
    """Test samples per fitted sample, where every repetition has a test split of its own; else None."""
    if "test" not in DIVISIONS[divide]:
        return None
    count = {split: int(np.sum(cache.split == split)) for split in DIVISIONS[divide]}
    return count["test"] / (count["predictor"] + count["validation"])


if __name__ == "__main__":
    main(run)
