"""Disk space: before a stage starts, its estimated need is compared with the free space."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from quee.errors import QueeError

if TYPE_CHECKING:
    from tasks.stage import Stage

ROW_BYTES = 29
"""Bytes of a cache row besides its arrays: sample, split, node, label, prediction, error, probability of the label."""

TWICE = 2
"""First the shards and the result take space together, then the result and DVC's copy of it."""

SPARE = 64_000_000
"""Bytes for everything else that a run writes in the meantime."""


def check_space(stage: "Stage") -> None:
    """Raises QueeError where a stage's estimated need exceeds the free space of the place it writes to."""
    estimate = ESTIMATES.get(stage.name)
    if estimate is None:
        return
    size, how = estimate(stage)
    needed, free = TWICE * size + SPARE, shutil.disk_usage(stage.out).free
    if needed > free:
        raise QueeError(
            f"stage {stage.name} of {stage.experiment.name} needs about {_shown(needed)} on disk ({how}; held twice while "
            f"it is written), {_shown(free)} are free in {stage.out.resolve().parent}; `quee gc` shows what can be removed"
        )


def features_bytes(stage: "Stage") -> tuple[int, str]:
    """Upper bound in bytes on the feature cache before compression, and the factors behind it in words."""
    from quee.cache.build import MANY_CLASSES, TOP
    from quee.features import feature_names
    from quee.trees.settled import read_settled
    from quee.work.io import read_json

    experiment = stage.experiment
    dataset = read_json(stage.input("prepare") / "dataset.json")
    settled = read_settled(stage.input("tree"))
    nodes = len(settled.tree) + len(settled.references) * settled.tree.segments
    samples = sum(count for split, count in dataset["splits"].items() if split not in ("train", "calibration"))
    classes = len(dataset["classes"])
    columns = len(feature_names(experiment.exits.embedding if experiment.features.embedding else 0))
    row = ROW_BYTES + 2 * (classes if classes <= MANY_CLASSES else TOP + 1) + 4 * columns
    return samples * nodes * row, f"{samples:,} samples × {nodes:,} nodes × {row} bytes"


ESTIMATES: dict[str, Callable[["Stage"], tuple[int, str]]] = {"features": features_bytes}


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
