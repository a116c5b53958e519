"""The division of a data set's samples that an experiment asks for."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from quee.data.splits import make_splits
from quee.data.weights_facts import seen_samples
from quee.measure import LABELLED

if TYPE_CHECKING:
    from quee.data.source import ImageSource
    from quee.settings.experiment import Experiment


def divided(images: "ImageSource", experiment: "Experiment", limit: int | None = None, smoke: bool = False) -> pa.Table:
    """The table of `make_splits` for an experiment: with the groups of its data set, and what its weights have seen.

    Images labelled beside others are a split of their own, of which nothing is drawn.
    """
    settings, cut = experiment.prepare, images.train_samples
    end = cut + images.evaluation_samples
    evaluation = images.labels[cut:end] if cut < end else None
    seen = None
    if settings.splits.evaluation_set == "never_seen" and experiment.backbone.weights is not None:
        seen = seen_samples(experiment.backbone.weights, images, settings.dataset)
    table = make_splits(
        images.labels[:cut],
        evaluation,
        settings.splits,
        settings.seed,
        limit,
        smoke,
        groups=images.groups,
        seen=None if seen is None else seen[:cut],
    )
    return with_labelled(table, np.arange(end, len(images))[: limit if smoke else None])


def with_labelled(table: pa.Table, ids: np.ndarray) -> pa.Table:
    """The table with the samples `ids` (n,), which follow all others, in split `labelled` of every rotation."""
    if not len(ids):
        return table
    values = {"sample_id": ids, "calibration": np.zeros(len(ids), bool), "fold": np.full(len(ids), -1), "group": ids}
    columns = [pa.array(values.get(f.name, np.full(len(ids), LABELLED, object)), f.type) for f in table.schema]
    return pa.concat_tables([table, pa.table(columns, schema=table.schema)])
