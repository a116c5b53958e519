"""Computing a grid: stored results are read, the others are computed and stored. Keys are digests of all inputs."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quee.errors import IntegrityError
from quee.evaluation.ablation.fit import Outcome, Prepared, Recipe, Study, evaluate, fit, prepare, restore
from quee.evaluation.ablation.grid import Point
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.store import Store

KEPT_SECONDS = 30 * 24 * 3600
WORK = "work"
"""Folder for unfinished work."""


@dataclass(frozen=True)
class Points:
    """Results by the digest of everything that they depend on, in one `Store` per prefix of a digest."""

    folder: Path

    def read(self, digest: str) -> tuple[dict[str, np.ndarray], dict[str, float]] | None:
        """Arrays and facts; None where they are missing or damaged."""
        if (data := self._store(digest).read(digest)) is None:
            return None
        self.touch(digest)
        arrays, metadata = unpacked_tensors(data, digest)
        return arrays, json.loads(metadata["facts"])

    def write(self, digest: str, arrays: dict[str, np.ndarray], facts: dict[str, float]) -> None:
        self._store(digest).write(digest, packed_tensors(arrays, {"facts": json.dumps(facts, sort_keys=True)}))

    def touch(self, digest: str) -> None:
        """Mark a result as still used, without reading it."""
        for file in self.folder.glob(f"{digest[:2]}/{digest}-*"):
            os.utime(file)

    def work(self, digest: str) -> Path:
        """Folder for unfinished work under a digest."""
        return self.folder / WORK / digest

    def prune(self, seconds: float = KEPT_SECONDS) -> None:
        """Remove results that were neither written nor used for so many seconds."""
        before = time.time() - seconds
        for file in self.folder.glob("??/*"):
            if file.stat().st_mtime < before:
                file.unlink(missing_ok=True)
        for folder in (self.folder / WORK).glob("*"):
            if max(part.stat().st_mtime for part in (folder, *folder.rglob("*"))) < before:
                shutil.rmtree(folder, ignore_errors=True)

    def _store(self, digest: str) -> Store:
        return Store(str(self.folder.resolve() / digest[:2]))


def missing(study: Study, points: Sequence[Point], store: Points) -> list[tuple[Point, int]]:
    """The (point, repetition) pairs still to be computed; pairs that share predictors follow each other."""
    seeds = range(study.experiment.ablate.seeds)
    todo = [(p, s) for s in seeds for p in points if store.read(study.point_digest(p.recipe, s)) is None]
    return sorted(todo, key=lambda item: (item[1], _rank(study, points, *item)))


def _rank(study: Study, points: Sequence[Point], point: Point, seed: int) -> int:
    own = study.fit_digest(point.recipe, seed)
    return next(i for i, other in enumerate(points) if study.fit_digest(other.recipe, seed) == own)


def compute(study: Study, todo: Sequence[tuple[Point, int]], store: Points) -> Iterator[tuple[Point, int, Outcome]]:
    """Compute and keep the outcomes; yields each when it is done."""
    prepared: Prepared | None = None
    for point, seed in todo:
        if prepared is None or not _shares(prepared, point.recipe, seed):
            prepared = prepare(study, point.recipe, seed)
        prepared = Prepared(point.recipe, seed, prepared.predictor, prepared.validation, prepared.test)
        predictors = None
        if point.recipe.learns:
            key = study.fit_digest(point.recipe, seed)
            known = store.read(key)
            if known is None:
                predictors = fit(study, prepared)
                store.write(key, predictors.arrays(), {})
            else:
                predictors = restore(known[0])
        outcome = evaluate(study, prepared, predictors)
        digest = study.point_digest(point.recipe, seed)
        store.write(digest, {"area": outcome.area, "errors": outcome.errors}, dict(outcome.facts))
        yield point, seed, outcome


def _shares(prepared: Prepared, recipe: Recipe, seed: int) -> bool:
    """Whether two recipes can use the same prepared cache."""
    tree = {"precisions", "gates", "considered", "embedding"}
    return prepared.seed == seed and prepared.recipe.model_dump(include=tree) == recipe.model_dump(include=tree)


def outcomes(study: Study, points: Sequence[Point], store: Points) -> list[list[Outcome]]:
    """Every point's outcomes by repetition; raises IntegrityError where one is not in the store."""
    found = []
    for point in points:
        row = []
        for seed in range(study.experiment.ablate.seeds):
            known = store.read(study.point_digest(point.recipe, seed))
            if known is None:
                raise IntegrityError(f"ablation point {point.title}, repetition {seed}, is not in {store.folder}")
            row.append(Outcome(known[0]["errors"], known[0]["area"], known[1]))
        found.append(row)
    return found
