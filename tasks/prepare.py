"""Stage `prepare`: the splits, and a description of the images."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quee.data.division import divided
from quee.data.source import ImageSource, describe, open_dataset
from quee.data.splits import rotations_of
from quee.data.weights_facts import weights_path
from quee.errors import UsageError
from quee.settings.requirements import check_answers, check_data, check_network, pool_of
from quee.work.io import file_digest, write_json, write_table
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Divide a dataset's samples into disjoint, stratified splits and record its classes, sizes and digests.

    Data, settings and networks that a later stage could not use are refused here. A smoke run refuses the same, then
    draws at least two samples from as many classes as possible, and prints the number of classes. With folds, the
    counts of `dataset.json` are those of the first rotation, to which targets, predictors, policies and bundle are fitted.
    """
    settings = stage.experiment.prepare
    images = open_dataset(stage.data, settings.dataset)
    check_answers(stage.experiment, images.answers, lambda name: file_digest(weights_path(name)))
    table = _splits(stage, images, settings.limit)
    _check(stage, images, table)
    left_out: dict[str, list[str]] = {}
    if stage.limit is not None:
        table = _splits(stage, images, min(stage.limit, settings.limit or stage.limit), smoke=True)
        left_out["left_out"] = _left_out(images, table)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["split"]).to_pylist()}
    folds = {"folds": settings.splits.folds} if settings.splits.folds else {}
    write_table(stage.out / "splits.parquet", table)
    write_json(
        stage.out / "dataset.json", {**describe(images, settings.dataset), "splits": counts, **folds, **left_out}
    )


def _splits(stage: Stage, images: ImageSource, limit: int | None, smoke: bool = False) -> pa.Table:
    try:
        return divided(images, stage.experiment, limit, smoke)
    except UsageError as error:
        raise UsageError(f"experiments/{stage.experiment.name}.yaml: {error}") from None


def _check(stage: Stage, images: ImageSource, table: pa.Table) -> None:
    experiment, ids = stage.experiment, table["sample_id"].to_numpy()
    pool = pool_of(experiment, images.labels, images.train_samples)
    for split in rotations_of(table):
        groups = None if images.groups is None else images.groups[ids]
        check_data(experiment, split, images.labels[ids], pool, images.classes, groups, images.answers is not None)
    chosen = ids[table["calibration"].to_numpy(zero_copy_only=False)]
    first = images.encoded[int(chosen[0])][0]
    if all(images.encoded[int(sample)][0] == first for sample in chosen[1:]):
        raise UsageError(f"{stage.data}: all {len(chosen)} calibration images are equal")
    check_network(experiment, len(images.classes), images.dataset.channels)


def _left_out(images: ImageSource, table: pa.Table) -> list[str]:
    """Names of the classes without a sample in a smoke run; prints the number of classes with samples."""
    drawn = np.unique(images.labels[table["sample_id"].to_numpy()])
    names = [images.classes[label] for label in range(len(images.classes)) if label not in set(drawn.tolist())]
    print(f"smoke run: {len(table):,} images of {len(drawn):,} of {len(images.classes):,} classes", flush=True)
    return names


if __name__ == "__main__":
    main(run)
