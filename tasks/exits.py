"""Stage `exits`: a classifier at every gate."""

import numpy as np
import pyarrow as pa

from quee.cost import trace_cost
from quee.data import open_dataset
from quee.data.splits import split_ids
from quee.data.transforms import Preprocessing
from quee.exits import fit_exits
from quee.features import GateView
from quee.io import read_json, write_json, write_table
from quee.precision import Precision
from quee.store import load_precisions
from quee.threads import spare_threads
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Train the exit heads on prefixes drawn uniformly; measure each uniform precision on the validation split."""
    settings, prepared = stage.experiment.exits, stage.input("prepare")
    images = open_dataset(stage.data, stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"])
    ids = split_ids(prepared / "splits.parquet")
    precisions = [Precision(name) for name in stage.experiment.paths.precisions]
    backbone = load_precisions(stage.input("backbone"), stage.input("quantize"), precisions)
    float_model = backbone.models[Precision("fp32")]
    spare_threads(trace_cost(float_model).macs)
    transform = Preprocessing.from_timm(float_model.input)
    random = np.random.default_rng(settings.seed)
    train = ids["train"]
    if settings.max_samples and len(train) > settings.max_samples:
        train = np.sort(random.choice(train, settings.max_samples, replace=False))
    augmentation = stage.experiment.backbone.augmentation if settings.augment else None
    draws = (
        (x, y)
        for draw in range(settings.draws)
        for _, x, y in images.batches(train, transform, 256, (settings.seed, draw), augmentation)
    )
    heads, history = fit_exits(backbone, precisions, draws, settings, settings.draws * -(-len(train) // 256))
    heads.save(stage.out / "heads.safetensors")
    write_table(stage.out / "history.parquet", pa.Table.from_pylist(history))

    view = GateView(backbone, heads, embedding=False)
    right: dict[int, dict[str, list[np.ndarray]]] = {gate: {} for gate in range(1, backbone.segments + 1)}
    for _, x, y in images.batches(ids["validation"], transform, 256):
        for precision in precisions:
            state = x
            for gate in right:
                state = backbone.run(gate, precision, state)
                found = view(gate, precision, state)[0].argmax(axis=1)
                right[gate].setdefault(str(precision), []).append(found == y.numpy())
    accuracy = {
        str(gate): {name: float(np.concatenate(hits).mean()) for name, hits in by.items()} for gate, by in right.items()
    }
    write_json(stage.out / "metrics.json", {"gates": accuracy})


if __name__ == "__main__":
    main("exits", run)
