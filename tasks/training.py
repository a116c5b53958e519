"""Training within stage `backbone`: the images of every step, where the network is trained, and what is recorded of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from quee.data.preprocessing import Preprocessing
from quee.data.source import ImageSource
from quee.data.stream import open_stream
from quee.errors import QueeError
from quee.network import checkpoint
from quee.network.base import SegmentedBackbone
from quee.network.device import place
from quee.network.probe import fit_probe
from quee.network.schedule import Stretch, images_in, steps_in_all
from quee.network.training import Batches, History, freeze, predict_logits, train_backbone, uses_bf16
from quee.settings.backbone import Augmentation, Backbone
from tasks.scale import Scale
from tasks.stage import Stage


def train(
    stage: Stage, backbone: SegmentedBackbone, images: ImageSource, ids: dict[str, np.ndarray], scale: Scale, macs: int
) -> tuple[History, dict[str, Any]]:
    """Train the backbone, of so many multiply-adds, in place by its mode; returns the history and facts for `backbone.json`.

    The facts are what settings do not tell: where the backbone was trained, in which format products were computed, and on
    how many images. Who trained on drawn images has seen the sources of all training images.
    """
    settings, samples = stage.experiment.backbone, ids["train"]
    if settings.mode == "pretrained":
        return History(), {}
    if stage.limit is not None and settings.images is not None:  # a smoke run is as short as its samples are few
        settings = settings.model_copy(update={"images": min(settings.images, len(samples))})
    bf16 = uses_bf16(settings.mixed_precision, place(scale.device), macs)
    history = _fit(stage, settings, backbone, images, ids, scale, bf16)
    seen = images_in(settings, len(samples), steps_in_all(settings, len(samples)))
    how = {"device": scale.device, "drawn": settings.drawn, "images": seen, "products": "bf16" if bf16 else "fp32"}
    return history, {"training": how, **({"fitted_on": "official training set"} if settings.drawn else {})}


def _fit(
    stage: Stage,
    settings: Backbone,
    backbone: SegmentedBackbone,
    images: ImageSource,
    ids: dict[str, np.ndarray],
    scale: Scale,
    bf16: bool,
) -> History:
    samples = ids["train"]
    if settings.mode == "linear_probe":

        def chosen(rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
            return images.batches(rows, backbone.input, 64)

        return fit_probe(backbone, settings, ids, chosen, scale.work(stage), bf16, scale.device)
    freeze(backbone, settings.trained_blocks)
    with _training_batches(stage, settings, backbone.input, images, samples, scale) as batches:
        return train_backbone(
            backbone,
            settings,
            batches,
            len(samples),
            lambda model: _measure(model, images, ids["validation"]),
            scale.work(stage) / checkpoint.NAME,
            bf16,
            scale.device,
        )


@contextmanager
def _training_batches(
    stage: Stage, settings: Backbone, whole: Preprocessing, images: ImageSource, samples: np.ndarray, scale: Scale
) -> Iterator[Batches]:
    """The batches of a stretch of training: of the samples, ids (n,), or drawn by worker processes."""

    def at(stretch: Stretch) -> tuple[Preprocessing, Augmentation]:
        if stretch.side is None:
            return whole, settings.augmentation
        padding = round(settings.augmentation.crop_padding * stretch.side / whole.size[0])
        changed = settings.augmentation.model_copy(update={"crop_padding": padding})
        return whole.resized(stretch.side), changed

    def collected(stretch: Stretch) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        transform, augmentation = at(stretch)
        seed, steps = (settings.seed, stretch.epoch), slice(stretch.first, stretch.last)
        return images.batches(samples, transform, settings.batch_size, seed, augmentation, steps=steps)

    if not settings.drawn:
        yield collected
        return
    stream = open_stream(stage.experiment.prepare.dataset, settings.seed)
    lanes = scale.lanes_for(stream.origin.seconds * steps_in_all(settings, len(samples)) * settings.batch_size)
    with lanes.open() as executor:

        def drawn(stretch: Stretch) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
            transform, augmentation = at(stretch)
            first, last = stretch.before, stretch.before + stretch.steps
            return stream.batches(executor, first, last, settings.batch_size, transform, augmentation)

        try:
            yield drawn
        except lanes.lost as error:
            raise QueeError(
                f"a worker that draws images died ({type(error).__name__}); the same command goes on"
            ) from None


def _measure(backbone: SegmentedBackbone, images: ImageSource, ids: np.ndarray) -> float:
    """The accuracy of a backbone in training on samples `ids` (n,), on the device it is on."""
    logits, labels = predict_logits(backbone, images.batches(ids, backbone.input, 256))
    return float((logits.argmax(axis=1) == labels).mean())
