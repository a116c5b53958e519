"""Stage `backbone`: the float backbone, trained here or taken as it is."""

import numpy as np
import pyarrow as pa
import torch
from sklearn.svm import SVC

from quee.backbones import create_backbone
from quee.cost import trace_cost
from quee.data import open_dataset
from quee.data.splits import split_ids
from quee.data.transforms import Preprocessing
from quee.io import read_json, write_json, write_table
from quee.store import save_backbone
from quee.training import predict_logits, seed_torch, train_backbone
from tasks.stage import Stage, main

SMALL_MACS = 10_000_000
SVC_LIMIT = 200_000
"""Pixels × samples up to which the support vector machine is fitted for comparison."""


def run(stage: Stage) -> None:
    """Train the backbone on the training split and record its accuracy beside that of an RBF support vector machine."""
    settings, prepared = stage.experiment.backbone, stage.input("prepare")
    images = open_dataset(stage.data, stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"])
    ids = split_ids(prepared / "splits.parquet")
    seed_torch(settings.seed)
    backbone = create_backbone(settings.name, settings.gates, **settings.kwargs)
    if trace_cost(backbone).macs < SMALL_MACS:  # as fast on one thread, and then the bits do not depend on the cores
        torch.set_num_threads(1)
    transform = Preprocessing.from_timm(backbone.input)

    def accuracy(split: str, model=backbone) -> float:  # type: ignore[no-untyped-def]
        logits, labels = predict_logits(model, images.batches(ids[split], transform, 256))
        return float((logits.argmax(axis=1) == labels).mean())

    steps = -(-len(ids["train"]) // settings.batch_size)
    history = train_backbone(
        backbone,
        settings,
        lambda epoch: images.batches(
            ids["train"], transform, settings.batch_size, (settings.seed, epoch), settings.augmentation
        ),
        steps,
        lambda model: accuracy("validation", model),
        stage.partial / "checkpoint.pt",
    )
    save_backbone(stage.out, backbone, settings.kwargs, fitted_on=ids["train"].tolist(), mode=settings.mode)
    write_table(stage.out / "history.parquet", pa.table(history.columns()))
    metrics = {
        "accuracy": {split: accuracy(split) for split in ("train", "validation", "test") if len(ids[split])},
        "macs": trace_cost(backbone).macs,
        "parameters": sum(p.numel() for p in backbone.parameters()),
    }
    height, width = backbone.input.height, backbone.input.width
    if len(ids["train"]) * height * width <= SVC_LIMIT:
        x = {
            split: np.asarray(images.decode(ids[split])).reshape(len(ids[split]), -1) / 255
            for split in ("train", "test")
        }
        svc = SVC().fit(x["train"], images.labels[ids["train"]])
        metrics["svc_accuracy"] = float(svc.score(x["test"], images.labels[ids["test"]]))
    write_json(stage.out / "metrics.json", metrics)


if __name__ == "__main__":
    main("backbone", run)
