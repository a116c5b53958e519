"""A project of small coloured patches whose whole pipeline takes seconds, run stage by stage in this process."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from quee.data.writer import Sample, encode_png, write_images
from quee.settings.experiment import BLOCKS
from quee.work.io import read_json
from tasks.dvc.lock import stage_names
from tasks.stage import artifacts_of, run_stage

ROOT = Path(__file__).parent.parent.parent
SETTINGS: dict[str, dict[str, Any]] = {
    "prepare": {"dataset": "patches", "splits": {"train": 0.45, "calibration": 16}},
    "backbone": {
        "name": "vit_digits", "kwargs": {"depth": 2, "embed_dim": 16, "num_heads": 2, "in_chans": 1}, "gates": [1, 2],
        "epochs": 1, "batch_size": 32, "warmup_epochs": 0,
    },
    "paths": {"precisions": ["w4a4", "w8a8"], "references": ["fp32"]},
    "quantize": {"preset": "minmax"},
    "exits": {"draws": 1, "embedding": 4},
    "targets": {"clusters": 3, "sweep": [1, 3]},
    "predictors": {"hidden": 8, "epochs": 5},
    "evaluate": {
        "points": 100, "seeds": 1, "bootstrap": 100,
        "quality": {"widths": [1], "samples": [0.5], "noise": [1.0], "clusters": [1]},
    },
}  # fmt: skip


def patch(label: int, number: int) -> np.ndarray:
    """An image uint8 (8, 8, 1) with a bright row that tells its class."""
    pixels = np.random.default_rng([label, number]).integers(0, 120, (8, 8, 1))
    pixels[label % 8] = 200 + 3 * (label // 8 % 16)
    return pixels.astype(np.uint8)


@dataclass(frozen=True)
class Tiny:
    """Make the project's folder the current folder."""

    root: Path

    def data(self, counts: Mapping[str, int], evaluation: Mapping[str, int] | None = None) -> None:
        """Write the data set `patches`: so many images of each class, sorted by class, and of an evaluation set."""
        for split, of in (("train", counts), ("test", evaluation)):
            if of is not None:
                labels = [label for label, count in enumerate(of.values()) for _ in range(count)]
                images = (
                    Sample(encode_png(patch(label, k)), f"{split}/{k}.png", label) for k, label in enumerate(labels)
                )
                (self.root / "data" / "patches").mkdir(parents=True, exist_ok=True)
                file = self.root / "data" / "patches" / f"{split}-00000-of-00001.parquet"
                write_images(file, images, tuple(counts))

    def write(self, **blocks: Mapping[str, Any]) -> None:
        """Write experiments/tiny.yaml: `SETTINGS` with the keys given replaced, block by block."""
        content: dict[str, Any] = {block: {} for block in BLOCKS}
        for block, settings in SETTINGS.items():
            content[block] = dict(settings)
        for block, settings in blocks.items():
            content[block] = {**content[block], **settings}
        (self.root / "experiments").mkdir(exist_ok=True)
        (self.root / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(content))

    def run(self, *stages: str, limit: int | None = None) -> Path:
        """Run the stages, or the whole pipeline; returns the folder of the results."""
        for stage in stages or stage_names(ROOT):
            run_stage(stage, import_module(f"tasks.{stage}").run, "tiny", limit)
        return artifacts_of("tiny", limit)

    def metrics(self, stage: str = "evaluate", limit: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = read_json(artifacts_of("tiny", limit) / stage / "metrics.json")
        return found


def tiny_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Two classes of 60 images each, and an experiment of two segments and two precisions; the folder is the current one."""
    monkeypatch.chdir(folder)
    for name in ("dvc.yaml", "quee", "tasks"):
        (folder / name).symlink_to(ROOT / name)
    found = Tiny(folder)
    found.data({"a": 60, "b": 60})
    found.write()
    return found


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    return tiny_in(tmp_path, monkeypatch)
