"""Stage `prepare`: the splits, and what is known of the images."""

import pyarrow.compute as pc

from quee.data import open_dataset
from quee.data.source import describe
from quee.data.splits import make_splits
from quee.io import write_json, write_table
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Divide a dataset's samples into disjoint, stratified splits and record its classes, sizes and digests."""
    settings = stage.experiment.prepare
    images = open_dataset(stage.data, settings.dataset)
    limits = [limit for limit in (settings.limit, stage.limit) if limit is not None]
    cut = images.train_samples
    labels_test = images.labels[cut:] if cut < len(images) else None
    table = make_splits(images.labels[:cut], labels_test, settings.splits, settings.seed, min(limits, default=None))
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["split"]).to_pylist()}
    write_table(stage.out / "splits.parquet", table)
    write_json(stage.out / "dataset.json", {**describe(images, settings.dataset), "splits": counts})


if __name__ == "__main__":
    main("prepare", run)
