"""`quee.fit`: the pipeline without any orchestrator."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from quee.backbones.base import SegmentedBackbone
from quee.cache import FeatureCache, describe_tree
from quee.cost import trace_cost
from quee.data.splits import make_splits
from quee.data.transforms import Preprocessing, to_unit
from quee.errors import UsageError
from quee.evaluation.resplits import fit_quee
from quee.execution import MultiPrecisionBackbone, walk_tree
from quee.exits import fit_exits
from quee.experiment import Experiment, Splits
from quee.features import GateView
from quee.paths import PathTree
from quee.precision import Precision
from quee.quantization import QuantizationConfig, quantize_paths
from quee.runtime.bundle import load_bundle
from quee.runtime.classifier import AdaptiveClassifier
from quee.runtime.writing import write_bundle
from quee.store import save_backbone, save_quantized


def fit(
    backbone: SegmentedBackbone,
    images: np.ndarray,
    labels: np.ndarray,
    out: str | Path,
    precisions: Sequence[str] = ("w3a3", "w4a4", "w8a8"),
    kwargs: dict[str, Any] | None = None,
    budget: float = 0.2,
    seed: int = 0,
) -> AdaptiveClassifier:
    """Make a bundle at `out` from a trained backbone and labelled images it was not trained on, and load it.

    `images` uint8 (n, h, w) or (n, h, w, c); `labels` (n,) class indices; `kwargs` are those the backbone was created
    with. Half of the images fit the exit heads (a part of them the quantizers), three tenths the predictors, the rest
    chooses operating points. Raises UsageError when `out` exists or shapes disagree.
    """
    target = Path(out)
    if target.exists():
        raise UsageError(f"{target} exists; give a new path")
    if len(images) != len(labels):
        raise UsageError(f"{len(images)} images but {len(labels)} labels")
    backbone = backbone.requires_grad_(False).eval()
    settings = Experiment(
        name="fit",
        prepare={"dataset": "fit"},  # type: ignore[arg-type]
        backbone={"name": backbone.name, "gates": list(backbone.gates)},  # type: ignore[arg-type]
        paths={"precisions": list(precisions), "references": []},  # type: ignore[arg-type]
    )
    calibration = min(256, len(labels) // 4)
    shares = Splits(train=0.5, calibration=max(16, calibration), predictor=0.3, validation=0.19, test=0.01)
    table = make_splits(labels, None, shares, seed)
    split = np.asarray(table["split"].to_pylist(), dtype=object)
    is_calibration = table["calibration"].to_numpy(zero_copy_only=False)
    transform = Preprocessing.from_timm(backbone.input)
    pixels = images[..., None] if images.ndim == 3 else images
    x = transform.normalise(to_unit(transform.coloured(pixels)))
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64))

    tree = PathTree(precisions, backbone.segments, max_nodes=settings.paths.max_nodes)
    batches = list(x[torch.from_numpy(np.flatnonzero(is_calibration))].split(64))
    models: dict[Precision, SegmentedBackbone] = {Precision("fp32"): backbone}
    configs = [QuantizationConfig(precision) for precision in tree.precisions if not precision.is_float]
    models.update(quantize_paths(backbone, configs, batches, seed))
    multi = MultiPrecisionBackbone(models)
    train = torch.from_numpy(np.flatnonzero(split == "train"))
    draws = [(x[rows], y[rows]) for _ in range(settings.exits.draws) for rows in train.split(256)]
    heads, _ = fit_exits(multi, settings.exits.behind(tree.precisions), draws, settings.exits, len(draws))
    view = GateView(multi, heads, embedding=True)
    classes = [str(index) for index in range(backbone.num_classes)]
    description = describe_tree("fit", tree, [], trace_cost(backbone), view, classes)
    cache = _cache(multi, view, tree, description, x, np.asarray(labels), split)
    _, fitted = fit_quee(cache, settings)
    with TemporaryDirectory(dir=target.parent, prefix=".quee-fit-") as aside:
        work, result = Path(aside) / "work", Path(aside) / "bundle"
        work.mkdir()
        result.mkdir()
        save_backbone(work, backbone, kwargs or {})
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
            fitted.plan.predictors,
            fitted,
            "fitted_q",
            budget,
            classes,
            lambda ids: x[torch.from_numpy(ids)].numpy(),
        )
        load_bundle(result)
        result.rename(target)
    return load_bundle(target)


def _cache(
    backbone: MultiPrecisionBackbone,
    view: GateView,
    tree: PathTree,
    description: dict[str, Any],
    x: torch.Tensor,
    labels: np.ndarray,
    split: np.ndarray,
) -> FeatureCache:
    """The cache in memory, of the rows that are not in `train`."""
    kept = np.flatnonzero(split != "train")
    prediction = np.zeros((len(kept), len(tree)), np.int32)
    p_label = np.zeros((len(kept), len(tree)), np.float32)
    features = np.zeros((len(kept), len(tree), len(view.names)), np.float32)
    for start in range(0, len(kept), 256):
        rows = slice(start, start + 256)
        own = kept[rows]
        for node, state in walk_tree(backbone, tree, x[torch.from_numpy(own)]):
            log_probs, features[rows, node] = view(int(tree.gate[node]), tree.paths[node][-1], state)
            prediction[rows, node] = log_probs.argmax(axis=1)
            p_label[rows, node] = np.exp(log_probs[np.arange(len(own)), labels[own]])
    label = labels[kept].astype(np.int32)
    none = np.zeros((len(kept), 0))
    return FeatureCache(
        tree,
        description,
        kept,
        split[kept],
        label,
        prediction,
        prediction != label[:, None],
        p_label,
        features,
        none.astype(bool),
        np.zeros((len(kept), 0, len(view.names)), np.float32),
        none.astype(np.int32),
    )
