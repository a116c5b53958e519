"""States of a frozen network for `exits_behind_frozen.py`: maps on a 4×4 grid of means and maxima, kept in parts on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quee.data.source import ImageSource
from quee.network.base import SegmentedBackbone
from quee.settings.backbone import Augmentation
from quee.work.io import read_shape, read_tensors, write_tensors
from quee.work.progress import progress

GRID = 4
PART = 2000
"""Images in a file; an interrupted extraction repeats at most so many."""
BATCH = 50
MOVED = Augmentation(flip=True, crop_padding=4)


def grid(state: Tensor) -> Tensor:
    """Maps (n, c, h, w) to (n, 2, c · 16): means, then maxima, over the cells of a 4×4 grid."""
    mean = functional.adaptive_avg_pool2d(state, GRID).flatten(1)
    return torch.stack([mean, functional.adaptive_max_pool2d(state, GRID).flatten(1)], dim=1)


def extract(
    backbone: SegmentedBackbone, source: ImageSource, ids: np.ndarray, seed: int | None, folder: Path, title: str
) -> list[Path]:
    """Files with the states of images at all gates before the last, and the logits; files that have them are kept.

    With a seed the images are flipped and shifted as in training. The order is that of `ids`.
    """
    parts = [ids[start : start + PART] for start in range(0, len(ids), PART)]
    files = [folder / f"{title}-{index:03}.safetensors" for index in range(len(parts))]
    with progress(f"states of {title}", len(parts)) as bar:
        for part, file in zip(parts, files, strict=True):
            if not (file.is_file() and all(read_shape(file, str(gate)) for gate in backbone.gates[:-1])):
                write_tensors(file, _states(backbone, source, part, seed))
            bar.advance()
    return files


def _states(
    backbone: SegmentedBackbone, source: ImageSource, ids: np.ndarray, seed: int | None
) -> dict[str, np.ndarray]:
    augmentation = None if seed is None else MOVED
    shuffle = None if seed is None else (seed,)
    found: dict[str, list[np.ndarray]] = {}
    order: list[np.ndarray] = []
    with torch.inference_mode():
        for rows, images, _ in source.batches(ids, backbone.input, BATCH, shuffle, augmentation, workers=1):
            order.append(rows)
            state = images
            for segment, blocks in enumerate(backbone.gates, 1):
                state = backbone.run_segment(segment, state)
                if segment < backbone.segments:
                    found.setdefault(str(blocks), []).append(grid(state).numpy().astype(np.float16))
            found.setdefault("logits", []).append(backbone.classify(state).numpy())
    back = np.argsort(np.concatenate(order), kind="stable")  # batches with a seed come shuffled
    place = np.empty(len(ids), np.int64)
    place[np.argsort(ids, kind="stable")] = back
    return {name: np.concatenate(parts)[place] for name, parts in found.items()}


def load(files: Sequence[Path], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of all parts by gate: states (n, 2, c · 16) float16; `logits` (n, classes) float32."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "logits")}
    for file in files:
        tensors = read_tensors(file)
        for name, own in parts.items():
            own.append(tensors[name])
    return {name: np.concatenate(own) for name, own in parts.items()}
