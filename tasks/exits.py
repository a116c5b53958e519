"""Stage `exits`: a classifier at every gate."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from quee.cost import trace_cost
from quee.data.preprocessing import Preprocessing
from quee.data.source import ImageSource, open_dataset
from quee.data.splits import split_ids, thinned
from quee.exits import ExitHeads, behind, fit_exits
from quee.features import GateView
from quee.network.execution import MultiPrecisionBackbone
from quee.network.files import load_precisions
from quee.precision import Precision
from quee.settings.exits import Exits
from quee.work.io import read_json, write_json, write_table
from quee.work.threads import spare_threads
from tasks.stage import Stage, main


@dataclass(frozen=True)
class Inputs:
    """Inputs for fitting heads: the network at every precision of the tree, and the images."""

    backbone: MultiPrecisionBackbone
    precisions: tuple[Precision, ...]
    images: ImageSource
    ids: dict[str, np.ndarray]
    transform: Preprocessing

    @classmethod
    def of(cls, stage: Stage) -> "Inputs":
        prepared = stage.input("prepare")
        images = open_dataset(
            stage.data, stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"]
        )
        precisions = tuple(Precision(name) for name in stage.experiment.paths.precisions)
        backbone = load_precisions(stage.input("backbone"), stage.input("quantize"), precisions)
        transform = backbone.models[Precision("fp32")].input
        return cls(backbone, precisions, images, split_ids(prepared / "splits.parquet"), transform)


def run(stage: Stage) -> None:
    """Train the exit heads on prefixes drawn uniformly; measure each uniform precision on the validation split."""
    inputs = Inputs.of(stage)
    heads, history = fit(stage, inputs, stage.experiment.exits)
    heads.save(stage.out / "heads.safetensors")
    write_table(stage.out / "history.parquet", pa.Table.from_pylist(history))

    backbone, view = inputs.backbone, GateView(inputs.backbone, heads, embedding=False)
    right: dict[int, dict[str, list[np.ndarray]]] = {gate: {} for gate in range(1, backbone.segments + 1)}
    for _, x, y in inputs.images.batches(inputs.ids["validation"], inputs.transform, 256):
        for precision in inputs.precisions:
            state = x
            for gate in right:
                state = backbone.run(gate, precision, state)
                found = view(gate, precision, state)[0].argmax(axis=1)
                right[gate].setdefault(str(precision), []).append(found == y.numpy())
    accuracy = {
        str(gate): {name: float(np.concatenate(hits).mean()) for name, hits in by.items()} for gate, by in right.items()
    }
    write_json(stage.out / "metrics.json", {"gates": accuracy})


def fit(stage: Stage, inputs: Inputs, settings: Exits) -> tuple[ExitHeads, list[dict[str, float]]]:
    """Heads fitted on the training split under some settings, and their history."""
    spare_threads(trace_cost(inputs.backbone.models[Precision("fp32")]).macs)
    train = thinned(inputs.ids["train"], settings.max_samples, settings.seed)
    augmentation = stage.experiment.backbone.augmentation if settings.augment else None
    draws = (
        (x, y)
        for draw in range(settings.draws)
        for _, x, y in inputs.images.batches(train, inputs.transform, 256, (settings.seed, draw), augmentation)
    )
    total = settings.draws * -(-len(train) // 256)
    prefixes = behind(settings, inputs.precisions)
    return fit_exits(inputs.backbone, prefixes, draws, settings, total, left_out(stage, inputs, train))


def left_out(stage: Stage, inputs: Inputs, train: np.ndarray) -> set[int]:
    """Classes without a sample among the ids `train` (n,) in a smoke run; empty in any other run."""
    if stage.limit is None:
        return set()
    return set(range(len(inputs.images.classes))) - set(inputs.images.labels[train].tolist())


if __name__ == "__main__":
    main(run)
