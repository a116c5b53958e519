"""The stages: their names in order, and the properties that tools need.

`dvc.yaml` and `ablations/dvc.yaml` alone define what each stage runs, reads and writes.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

TEMPLATES = Path(__file__).parent / "project"
"""Folder with the files of a project. DVC would take a file called `dvc.yaml` there for a pipeline."""
FILES = ("dvc.yaml", "ablations/dvc.yaml")
_NAMES = {"dvc.yaml": "pipeline.yaml", "ablations/dvc.yaml": "ablations.yaml"}
ARTIFACTS = "artifacts/"


def template(name: str) -> Path:
    """The file in the installed package from which a project's file `name` is made."""
    return TEMPLATES / _NAMES.get(name, name.removeprefix("."))


@dataclass(frozen=True)
class Kind:
    """Properties of a stage."""

    builds_network: bool = False
    """Whether the stage fits or quantizes the network; the network is then checked against the settings before the run."""
    reads_cache: bool = False
    """Whether the stage reads the feature cache or results from it, and runs no network."""
    dataset: bool = False
    """Whether the result is a data set for the stages that read it."""
    unlogged: tuple[str, ...] = ()
    """Suffixes of files that are not copied to the tracking server."""
    unpublished: tuple[str, ...] = ()
    """Patterns of files that `reference/` leaves out beside weights: caches, what follows from the seed, and copies of other
    files (the report contains all figures; README shows `curves.svg`)."""


STAGES: dict[str, Kind] = {
    "settings": Kind(),
    "prepare": Kind(dataset=True, unpublished=("splits.parquet",)),
    "backbone": Kind(builds_network=True),
    "tree": Kind(builds_network=True),
    "quantize": Kind(builds_network=True),
    "exits": Kind(builds_network=True),
    "features": Kind(dataset=True, unlogged=(".parquet",), unpublished=("part-*.parquet", "reference-*.parquet")),
    "targets": Kind(dataset=True, reads_cache=True, unpublished=("targets.parquet",)),
    "predictors": Kind(reads_cache=True),
    "policies": Kind(reads_cache=True),
    "evaluate": Kind(reads_cache=True, unpublished=("curve.csv",)),
    "report": Kind(reads_cache=True, unpublished=("[!c]*.svg", "c[!u]*.svg")),
    "bundle": Kind(unlogged=(".onnx",), unpublished=("*",)),
    "ablate": Kind(),
}
SETTINGS, *_ = STAGES
"""Name of the stage that fills in defaults; the other stages take their parameters from its result."""


def dependencies_of(stage: str, root: Path | None = None) -> list[str]:
    """The dependencies of a stage in a project's `dvc.yaml` or `ablations/dvc.yaml`; without `root`, in quee's own."""
    for file in FILES:
        path = template(file) if root is None else root / file
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].get(stage)
        if found:
            deps: list[str] = found.get("do", found)["deps"]  # `do` holds the stage where `foreach` makes several
            return deps
    raise KeyError(stage)


def read_by(stage: str, root: Path | None = None) -> list[str]:
    """The stages whose results a stage reads, in the order of its dependencies."""
    return [dep.rpartition("/")[2] for dep in dependencies_of(stage, root) if dep.startswith(ARTIFACTS)]


def leading_to(stage: str, root: Path | None = None) -> set[str]:
    """A stage and all stages that its result is made of, directly or by others. Raises KeyError for an unknown stage."""
    return {stage}.union(*(leading_to(name, root) for name in read_by(stage, root)))
