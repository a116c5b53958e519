"""An estimate of the time and disk that a new experiment takes, from a few of its images timed on this machine.

`quee plan` knows the times of stages that ran here; this is for experiments that never ran.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quee.work.counts import counted

if TYPE_CHECKING:
    import torch

    from quee.network.base import SegmentedBackbone
    from quee.settings.experiment import Experiment

MOST_MACS = 3e10
"""Multiply-adds spent on timing: a second or two of a core."""
MOST_IMAGES, LEAST_IMAGES = 64, 2
FIXED_SECONDS = 90.0
"""Starting the stages, and what does not grow with the network: predictors, policies, evaluation, report. Measured with
1,000 to 1,797 images on two cores of an AMD EPYC server."""
SAMPLE_SECONDS = 0.02
"""The same, by held-out sample."""
EACH = 16
"""Most images that each core is timed on."""
RANGE = (0.8, 2.0)
"""What is stated, as factors of what was reckoned from the timing: heads, graphs and checks are in no short probe."""
TRAINING = 3.0
"""Cost of a training step over a forward pass: forward, and backward twice that."""
PREFIXES = 1.5
"""Passes for an exit head's training state: a prefix runs mixed precisions, and an unquantized part for some."""


@dataclass(frozen=True)
class Forecast:
    """Time and disk of an experiment's first run here."""

    seconds: tuple[float, float]
    """From, to."""
    bytes: int
    said: str


@dataclass(frozen=True)
class Timed:
    """What a probe measured, with all cores at work at once, as they are in a run."""

    plain: float
    """Seconds of this machine per image through the float network."""
    quantized: float
    """The same through a quantized one."""
    quantizing: float
    """Seconds to quantize the network once."""
    images: int


def forecast(experiment: "Experiment", splits: dict[str, int]) -> Forecast:
    """Times a few images through the float network and at one quantized precision; `splits` are samples by split."""
    from quee.features import feature_names
    from quee.network.schedule import steps_in_all
    from quee.trees.candidates import FITTED, JUDGED
    from quee.trees.shape import largest
    from quee.work.threads import cores
    from tasks.work.space import ROW_BYTES, TWICE

    paths, exits, segments = experiment.paths, experiment.exits, experiment.backbone.segments
    tree = largest(paths, segments)
    nodes, kinds = len(tree) + segments * len(paths.references), len(tree.precisions)
    held_out = sum(count for name, count in splits.items() if name != "train")
    train = min(splits["train"], exits.max_samples or splits["train"])
    workers = cores()
    timed = _timed(experiment, workers)
    # Each path once; the states that exit heads are fitted on; each precision alone, when it is quantized;
    # candidates of the tree.
    passes = held_out * nodes / segments + PREFIXES * exits.draws * train + kinds * held_out
    searched = 2 * kinds if experiment.quantize.mixed == "auto" else 0
    if not paths.named:
        searched = len(paths.candidates) + (kinds if experiment.quantize.mixed == "auto" else 0)
    passes += searched * (min(FITTED, train) + min(JUDGED, splits.get("validation", 0)))
    seconds = timed.quantized * passes + timed.quantizing * (kinds + searched)
    if experiment.backbone.mode != "pretrained":
        steps = steps_in_all(experiment.backbone, splits["train"])
        probe = experiment.backbone.mode == "linear_probe"
        seconds += TRAINING * timed.plain * (splits["train"] if probe else steps * experiment.backbone.batch_size)
    seconds += FIXED_SECONDS + SAMPLE_SECONDS * held_out
    low, high = (factor * seconds for factor in RANGE)
    row = ROW_BYTES + 4 * len(feature_names(exits.embedding)) + 2 * 11
    size = TWICE * held_out * nodes * row + 2 * _weights_bytes(experiment) * (1 + kinds)
    said = (
        f"{_shown(low, high)} on {counted(workers, 'core')} as busy as now, and {size / 1e6:,.0f} MB on disk, from "
        f"{counted(timed.images, 'image')} timed here"
    )
    return Forecast((low, high), size, said)


def _timed(experiment: "Experiment", workers: int) -> Timed:
    import numpy as np
    import torch

    from quee.cost import trace_cost
    from quee.data.source import open_dataset
    from quee.evenly import evenly
    from quee.precision import Precision
    from quee.quantization.calibration import quantize_
    from quee.settings.quantize import QuantizationConfig
    from tasks.dvc.experiments import data_path

    backbone = _network(experiment)
    images = open_dataset(data_path(experiment), experiment.prepare.dataset)
    count = int(np.clip(MOST_MACS / trace_cost(backbone).macs, LEAST_IMAGES, MOST_IMAGES))
    rows = evenly(len(images), count)
    batch = images.batch(rows, backbone.input)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = QuantizationConfig(Precision("w4a4"), preset="fast")
        began = time.perf_counter()
        quantized = quantize_(deepcopy(backbone), config, [batch])
        quantizing = time.perf_counter() - began
        plain = _seconds(backbone, batch[:EACH], workers)
        return Timed(plain, _seconds(quantized, batch[:EACH], workers), quantizing, len(rows))
    finally:
        torch.set_num_threads(threads)


def _network(experiment: "Experiment") -> "SegmentedBackbone":
    from quee.data.weights import load_weights
    from quee.data.weights_facts import built_with, weights_path
    from quee.network.architectures import create_backbone

    settings = experiment.backbone
    backbone = create_backbone(settings.name, settings.fixed_gates, **built_with(settings))
    if settings.weights is not None:
        load_weights(backbone, weights_path(settings.weights), settings.mode != "pretrained")
    return backbone


def _seconds(network: "torch.nn.Module", batch: "torch.Tensor", workers: int) -> float:
    """Seconds of this machine per image, where so many threads each run the batch at once; the faster of two runs."""
    import torch

    def run(_: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            network(batch)

    found = []
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(2):
            began = time.perf_counter()
            list(pool.map(run, range(workers)))
            found.append(time.perf_counter() - began)
    return min(found) / (workers * len(batch))


def _weights_bytes(experiment: "Experiment") -> int:
    from quee.data.weights_facts import weights_path

    name = experiment.backbone.weights
    file = Path("/") if name is None else weights_path(name)
    return file.stat().st_size if file.is_file() else 4 * sum(p.numel() for p in _network(experiment).parameters())


STEPS = ((300, 15), (1800, 60), (7200, 300), (float("inf"), 1800))
"""Seconds below which a time is rounded to a step, and the step."""


def _shown(low: float, high: float) -> str:
    """A range of seconds in minutes or hours."""
    ends = []
    for seconds in (low, high):
        step = next(step for limit, step in STEPS if seconds < limit)
        ends.append(max(step, round(seconds / step) * step))
    unit, words = (3600, "hours") if ends[0] >= 7200 else (60, "minutes")
    return f"{ends[0] / unit:.3g} to {ends[1] / unit:.3g} {words}"
