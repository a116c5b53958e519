"""`quee.fit`: the pipeline without any orchestrator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quee.cache.answers import with_ensembles
from quee.cache.build import MANY_CLASSES, describe_tree
from quee.cache.read import FeatureCache, no_references
from quee.cost import trace_cost
from quee.ensembles import as_cached
from quee.errors import UsageError
from quee.evaluation.resplits import fit_policies
from quee.exits.fitting import behind, fit_exits
from quee.export.bundle import write_bundle
from quee.features import GateView
from quee.fitting.checks import (
    aside_of,
    bundle_path,
    check_order,
    check_pixels,
    check_size,
    checked_settings,
    divided,
    rebuilt,
)
from quee.fitting.foreign import COMPARED, as_backbone, refuse_other_answers
from quee.fitting.labelled import Labelled, read_labelled
from quee.fitting.labels import class_indices
from quee.network.base import SegmentedBackbone
from quee.network.execution import MultiPrecisionBackbone, walk_tree
from quee.network.files import save_backbone, save_quantized
from quee.paths import PathTree
from quee.precision import FLOAT, Precision
from quee.quantization.calibration import quantize_paths
from quee.quantization.format_choice import with_formats
from quee.quantization.layers import own_layers
from quee.runtime.bundle import load_bundle
from quee.runtime.classifier import AdaptiveClassifier
from quee.settings.experiment import Experiment
from quee.settings.quantize import QuantizationConfig
from quee.work.progress import progress

BATCH = 256


def fit(
    model: nn.Module,
    images: Any,
    labels: Any = None,
    out: str | Path = "bundle",
    precisions: Sequence[str] = ("w3a3", "w4a4", "w8a8"),
    kwargs: Mapping[str, Any] | None = None,
    budget: float = 0.2,
    seed: int = 0,
    *,
    pixels: str = "uint8",
    classes: Sequence[str] | None = None,
    preprocessing: Any = None,
) -> AdaptiveClassifier:
    """Make a bundle at `out` from a trained network and labelled images it was not trained on, and load it.

    `model` is a backbone of `create_backbone`, or a classifier of timm, torchvision or transformers of a family that is
    read here. Such a module may be in training mode, on a GPU or in half precision: a copy is taken in float32. Its
    `preprocessing` is what timm's configuration in it says, or what is given: a mapping with mean, std, interpolation,
    crop_pct and img_size, torchvision's `weights.transforms()`, or an image processor of transformers.

    `images` are as `AdaptiveClassifier.route` takes them, and `labels` (n,) are class indices or names. Without `labels`,
    `images` are batches: pairs (images, labels) or (image, label) from an iterable, or from a function that returns an
    iterator. Batches are read once and kept beside `out` until the end, one byte per channel at the backbone's size.
    `pixels="unit"` says that arrays hold floats from 0 to 1. `classes` names the backbone's outputs in their order.
    Without it, names among the labels are assigned to the outputs in sorted order; a warning says so unless the
    backbone's answers confirm the order.

    Half of the images fit the exit heads, and a part of these the quantizers. Three tenths fit the predictors, and the
    rest chooses operating points. The model is not changed; `kwargs` of a backbone need not be repeated.

    Raises UsageError for arguments that cannot be fitted, before anything is computed; nothing is left on disk.
    """
    target = bundle_path(out)
    backbone, original = as_backbone(model, preprocessing)
    settings = checked_settings(backbone, precisions, budget, seed)
    tree = PathTree(settings.paths.precisions, backbone.segments, max_nodes=settings.paths.max_nodes)
    own = rebuilt(backbone, kwargs)
    with aside_of(target) as aside:
        normal = own.input
        with closing(read_labelled(images, labels, normal, pixels, aside)) as given:
            indices, names = class_indices(given.labels, classes, own.num_classes)
            parts = divided(indices, names, settings.prepare.seed)
            check_pixels(*given.extremes())
            if original is not None:
                refuse_other_answers(own, original, given.batch(np.arange(min(COMPARED, len(given)))))
                check_size(own, given, indices)
            check_order(own, given, indices, names, guessed=given.labels.named and classes is None)
            _fit(own, given, indices, names, parts, tree, settings, aside)
        load_bundle(aside / "bundle")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise UsageError(f"{target} was made meanwhile; give a new path")
        (aside / "bundle").rename(target)
    return load_bundle(target)


def _fit(
    own: SegmentedBackbone,
    given: Labelled,
    indices: np.ndarray,
    names: list[str],
    parts: dict[str, np.ndarray],
    tree: PathTree,
    settings: Experiment,
    aside: Path,
) -> None:
    """Write the bundle `aside/bundle`."""
    models: dict[Precision, SegmentedBackbone] = {Precision("fp32"): own}
    configs = [QuantizationConfig(precision) for precision in tree.precisions if not precision.is_float]
    if configs:
        images = given.batch(parts["calibration"])
        configs, batches = with_formats(own, configs, images), list(images.split(64))
        models.update(quantize_paths(own, configs, batches, settings.prepare.seed))
    multi = MultiPrecisionBackbone(models)
    train = parts["train"]
    prefixes = behind(settings.exits, tree.precisions)
    steps = -(-len(train) // BATCH)
    heads, _ = fit_exits(multi, prefixes, lambda _: drawn(given, indices, train), settings.exits, steps, len(train))
    view = GateView(multi, heads, embedding=True)
    description = describe_tree("fit", tree, [], trace_cost(own, layers=own_layers(own, configs)), view, names)
    own_heads = _cache(multi, view, tree, description, given, indices, parts)
    cache = with_ensembles(own_heads, settings.targets.ensemble)
    basis, learned = fit_policies(cache, settings)
    work, result = aside / "work", aside / "bundle"
    work.mkdir()
    result.mkdir()
    assert own.made_with is not None
    save_backbone(work, own, own.made_with)
    for precision, model in models.items():
        if not precision.is_float:
            save_quantized(work, precision, model)
    heads.save(work / "heads.safetensors")
    write_bundle(
        result,
        "fit",
        work,
        work,
        work / "heads.safetensors",
        cache,
        basis,
        learned,
        settings.bundle.policy,
        settings.bundle.budget,
        names,
        lambda ids: given.batch(ids).numpy(),
        floating=_float_errors(multi, view, given, indices, np.sort(parts["validation"])),
    )


def _float_errors(
    backbone: MultiPrecisionBackbone, view: GateView, given: Labelled, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """(V,) errors of the float network on the rows, which accuracy losses refer to."""
    float_path = PathTree([FLOAT], backbone.segments)
    found = np.zeros(len(rows), bool)
    for start in range(0, len(rows), BATCH):
        own = rows[start : start + BATCH]
        *_, (node, state) = walk_tree(backbone, float_path, given.batch(own))
        log_probs, _ = view(int(float_path.gate[node]), Precision(FLOAT), state)
        found[start : start + BATCH] = log_probs.argmax(axis=1) != labels[own]
    return found


def drawn(given: Labelled, indices: np.ndarray, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels (n,) of all rows. One batch is in memory at a time."""
    for start in range(0, len(rows), BATCH):
        ids = rows[start : start + BATCH]
        yield given.batch(ids), torch.from_numpy(indices[ids])


def _cache(
    backbone: MultiPrecisionBackbone,
    view: GateView,
    tree: PathTree,
    description: dict[str, Any],
    given: Labelled,
    labels: np.ndarray,
    parts: dict[str, np.ndarray],
) -> FeatureCache:
    """The feature cache of own heads of the rows outside `train`, in memory."""
    kept = np.sort(np.concatenate([parts["predictor"], parts["validation"]]))
    split = np.where(np.isin(kept, parts["validation"]), "validation", "predictor").astype(object)
    prediction = np.zeros((len(kept), len(tree)), np.int32)
    p_label = np.zeros((len(kept), len(tree)), np.float32)
    features = np.zeros((len(kept), len(tree), len(view.names)), np.float32)
    classes = view.backbone.classes
    heads = None if classes > MANY_CLASSES else np.zeros((*prediction.shape, classes), np.float16)
    with progress("features", len(kept)) as bar:
        for start in range(0, len(kept), BATCH):
            rows = slice(start, start + BATCH)
            own = kept[rows]
            for node, state in walk_tree(backbone, tree, given.batch(own)):
                log_probs, features[rows, node] = view(int(tree.gate[node]), tree.paths[node][-1], state)
                prediction[rows, node] = log_probs.argmax(axis=1)
                p_label[rows, node] = np.exp(log_probs[np.arange(len(own)), labels[own]])
                if heads is not None:
                    heads[rows, node] = as_cached(log_probs)
            bar.advance(len(own))
    label = labels[kept].astype(np.int32)
    return FeatureCache(
        tree,
        description,
        kept,
        split,
        label,
        prediction,
        prediction != label[:, None],
        p_label,
        features,
        **no_references(len(kept), len(view.names)),
        head_log_probs=heads,
    )
