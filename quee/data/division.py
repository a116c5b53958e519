"""The division of a data set's samples that an experiment asks for."""

from typing import TYPE_CHECKING

import pyarrow as pa

from quee.data.splits import make_splits
from quee.data.weights_facts import seen_samples

if TYPE_CHECKING:
    from quee.data.source import ImageSource
    from quee.settings.experiment import Experiment


def divided(images: "ImageSource", experiment: "Experiment", limit: int | None = None, smoke: bool = False) -> pa.Table:
    """The table of `make_splits` for an experiment: with the groups of its data set, and what its weights have seen."""
    settings, cut = experiment.prepare, images.train_samples
    evaluation = images.labels[cut:] if cut < len(images) else None
    seen = None
    if settings.splits.evaluation_set == "never_seen" and experiment.backbone.weights is not None:
        seen = seen_samples(experiment.backbone.weights, images, settings.dataset)
    return make_splits(
        images.labels[:cut],
        evaluation,
        settings.splits,
        settings.seed,
        limit,
        smoke,
        groups=images.groups,
        seen=None if seen is None else seen[:cut],
    )
