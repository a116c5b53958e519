"""The stages: their names in order, and what tools that treat some of them otherwise must know.

What each stage runs, reads and writes stands in `dvc.yaml` and `ablations/dvc.yaml` alone.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
FILES = ("dvc.yaml", "ablations/dvc.yaml")
ARTIFACTS = "artifacts/"


@dataclass(frozen=True)
class Kind:
    """What is special about a stage."""

    builds_network: bool = False
    """Whether the stage fits or quantizes the network, which is then checked against the settings beforehand."""
    reads_cache: bool = False
    """Whether the stage reads the feature cache, or what was made from it, and runs no network."""
    dataset: bool = False
    """Whether the result is a data set to the stages that read it."""
    unlogged: tuple[str, ...] = ()
    """Suffixes of files that the tracking server gets no copy of."""
    unpublished: tuple[str, ...] = ()
    """Patterns of files that `reference/` leaves out: caches, what the stage makes from the weights in seconds, and what
    other files hold too (the report has all figures; README shows `curves.svg`)."""


STAGES: dict[str, Kind] = {
    "settings": Kind(),
    "prepare": Kind(dataset=True),
    "backbone": Kind(builds_network=True),
    "quantize": Kind(builds_network=True, unpublished=("*.safetensors",)),
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
"""The stage that fills in defaults; the others take their parameters from its result."""


def dependencies_of(stage: str, root: Path = ROOT) -> list[str]:
    """What a stage depends on, as `dvc.yaml` or `ablations/dvc.yaml` lists it."""
    for file in FILES:
        found = yaml.safe_load((root / file).read_text(encoding="utf-8"))["stages"].get(stage)
        if found:
            deps: list[str] = found.get("do", found)["deps"]  # `do`: where stages are made by `foreach`
            return deps
    raise KeyError(stage)


def read_by(stage: str, root: Path = ROOT) -> list[str]:
    """The stages whose results a stage reads, in the order of its dependencies."""
    return [dep.rpartition("/")[2] for dep in dependencies_of(stage, root) if dep.startswith(ARTIFACTS)]
