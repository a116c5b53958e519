"""Stage `exits`: a classifier at every gate."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import Tensor

from quee.cost import trace_cost
from quee.data.preprocessing import Preprocessing
from quee.data.source import ImageSource, open_dataset
from quee.data.splits import split_ids, thinned
from quee.exits.fitting import Record, behind, fit_exits
from quee.exits.heads import ANY, ExitHeads
from quee.features import GateView
from quee.network.device import place
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import load_precisions
from quee.precision import Precision
from quee.settings.exits import Exits
from quee.trees.settled import read_settled
from quee.work.io import read_json, write_json, write_table
from quee.work.threads import spare_threads
from tasks.scale import read_scale
from tasks.stage import Stage, main

BATCH = 256
HISTORY = pa.schema(
    [("gate", pa.int32()), ("precision", pa.string()), ("iteration", pa.int32()), ("loss", pa.float64())]
)
"""Losses of the fitted heads by iteration."""
CANDIDATES = pa.schema(
    [
        *(("gate", pa.int32()), ("pooling", pa.string()), ("hidden", pa.int32()), ("dropout", pa.float64())),
        *(("each_precision", pa.bool_()), ("inputs", pa.int32()), ("cost", pa.float64()), ("loss", pa.float64())),
        *(("accuracy", pa.float64()), ("score", pa.float64()), ("difference", pa.float64()), ("low", pa.float64())),
        *(("high", pa.float64()), ("chosen", pa.bool_())),
    ]
)
"""What was tried at each gate, on held-out training images; `difference` is that of scores to the best, with its interval."""


@dataclass(frozen=True)
class Inputs:
    """Inputs for fitting heads: the network at every precision of the tree, and the images."""

    backbone: MultiPrecisionBackbone
    precisions: tuple[Precision, ...]
    images: ImageSource
    ids: dict[str, np.ndarray]
    transform: Preprocessing

    @classmethod
    def of(cls, stage: Stage, device: str) -> "Inputs":
        prepared = stage.input("prepare")
        images = open_dataset(
            stage.data, stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"]
        )
        precisions = read_settled(stage.input("tree")).tree.precisions
        backbone = load_precisions(stage.input("backbone"), stage.input("quantize"), precisions).to(place(device))
        transform = backbone.models[Precision("fp32")].input
        return cls(backbone, precisions, images, split_ids(prepared / "splits.parquet"), transform)


def run(stage: Stage) -> None:
    """Choose and fit the exit heads on prefixes drawn uniformly; measure each uniform precision on the validation split."""
    device = read_scale().device
    inputs = Inputs.of(stage, device)
    heads, record = fit(stage, inputs, stage.experiment.exits)
    heads.save(stage.out / "heads.safetensors")
    write_table(stage.out / "history.parquet", pa.Table.from_pylist(record.history, HISTORY))
    write_table(stage.out / "candidates.parquet", pa.Table.from_pylist(record.candidates, CANDIDATES))

    backbone = inputs.backbone
    view = GateView(backbone, heads.to(backbone.device), embedding=False)
    right: dict[int, dict[str, list[np.ndarray]]] = {gate: {} for gate in range(1, backbone.segments + 1)}
    for _, x, y in inputs.images.batches(inputs.ids["validation"], inputs.transform, BATCH):
        for precision in inputs.precisions:
            state = x
            for gate in right:
                state = backbone.run(gate, precision, state)
                found = view(gate, precision, state)[0].argmax(axis=1)
                right[gate].setdefault(str(precision), []).append(found == y.numpy())
    accuracy = {
        str(gate): {name: float(np.concatenate(hits).mean()) for name, hits in by.items()} for gate, by in right.items()
    }
    found = {"device": device, "gates": accuracy, "heads": described(heads, record), "passes": record.passes}
    write_json(stage.out / "metrics.json", {**found, **inputs.images.measure.facts})


def described(heads: ExitHeads, record: Record) -> dict[str, dict[str, object]]:
    """Every gate's pooling and layers, whether each precision has a head of its own, and why."""
    return {
        str(gate): {
            "each_precision": ANY not in head.classifiers,
            "pooling": head.pooling,
            "reason": record.reasons[gate],
            "sizes": list(next(iter(head.classifiers.values())).sizes),
        }
        for gate, head in enumerate(heads.heads, 1)
        if head.classifiers
    }


def fit(stage: Stage, inputs: Inputs, settings: Exits) -> tuple[ExitHeads, Record]:
    """Heads chosen and fitted on the training split under some settings."""
    spare_threads(trace_cost(inputs.backbone.models[Precision("fp32")]).macs)
    train = thinned(inputs.ids["train"], settings.max_samples, settings.seed)
    augmentation = stage.experiment.backbone.augmentation if settings.augment else None
    batches = -(-len(train) // BATCH)

    def passes(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        order, drawn = (settings.seed, 0), (settings.seed, number)  # held-out images are told by their place in a pass
        given = inputs.images.batches(train, inputs.transform, BATCH, order, augmentation, augmentation_seed=drawn)
        for _, x, y in given:
            yield x, y

    prefixes = behind(settings, inputs.precisions)
    absent = left_out(stage, inputs, train)
    return fit_exits(inputs.backbone, prefixes, passes, settings, batches, len(train), absent)


def left_out(stage: Stage, inputs: Inputs, train: np.ndarray) -> set[int]:
    """Classes without a sample among the ids `train` (n,), in a smoke run or of the float network's answers; else empty."""
    if stage.limit is None and inputs.images.answers is None:
        return set()
    return set(range(len(inputs.images.classes))) - set(inputs.images.labels[train].tolist())


if __name__ == "__main__":
    main(run)
