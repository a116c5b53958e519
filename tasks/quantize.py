"""Stage `quantize`: the backbone at every precision of the tree and of the references."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from quee.backbones.base import SegmentedBackbone
from quee.cost import trace_cost
from quee.data import open_dataset
from quee.data.splits import split_ids
from quee.data.transforms import Preprocessing
from quee.execution import MultiPrecisionBackbone
from quee.io import FORMAT, read_json, write_json, write_table
from quee.precision import Precision
from quee.progress import progress
from quee.quantization import QuantizationConfig, quantize_, quantize_paths
from quee.quantization.allocation import with_mixed_bits
from quee.quantization.layers import quantizable
from quee.quantization.overrides import resolved
from quee.quantization.sensitivity import sensitivity
from quee.store import load_backbone, save_quantized
from quee.threads import spare_threads
from quee.training import device, predict_logits
from tasks.stage import Stage, main

SENSITIVITY_SAMPLES = 128
"""Validation samples on which each layer is quantized alone."""
SENSITIVITY = pa.schema(
    [
        ("precision", pa.string()),
        ("position", pa.int32()),
        ("layer", pa.string()),
        ("segment", pa.int32()),
        ("executed", pa.string()),
        ("sqnr_db", pa.float64()),
        ("accuracy_change", pa.float64()),
        ("agreement", pa.float64()),
    ]
)


def run(stage: Stage) -> None:
    """Quantize the backbone on the calibration split; measure each uniform precision on the validation split."""
    settings, paths, prepared = stage.experiment.quantize, stage.experiment.paths, stage.input("prepare")
    images = open_dataset(stage.data, stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"])
    ids = split_ids(prepared / "splits.parquet")
    backbone = load_backbone(stage.input("backbone"))
    transform = Preprocessing.from_timm(backbone.input)
    spare_threads(trace_cost(backbone).macs)
    own = {name: getattr(settings, name) or "" for name in ("stem", "head", "compensation")}
    batches = [x for _, x, _ in images.batches(ids["calibration"], transform, 64)]
    tree = sorted(map(Precision, paths.precisions))
    names = sorted({*tree, *map(Precision, paths.references), Precision("w8a8")})
    configs = {p: QuantizationConfig.of(p, settings.preset, **settings.settings()) for p in names if not p.is_float}
    if settings.mixed:
        configs = dict(zip(configs, with_mixed_bits(backbone, list(configs.values()), batches), strict=True))
    cost = trace_cost(backbone, **own, layers=_own_layers(backbone, configs))
    backbone.to(device())
    models = _quantized(backbone, tree, configs, batches, settings.path_aware, settings.seed, stage.partial)
    for model in (backbone, *models.values()):
        model.cpu()  # everything is measured where it will be executed
    for precision, model in models.items():
        save_quantized(stage.out, precision, model)
    multi = MultiPrecisionBackbone({Precision("fp32"): backbone, **models})
    reference, labels = predict_logits(backbone, images.batches(ids["validation"], transform, 64))
    metrics: dict[str, Any] = {}
    with progress("evaluating precisions", len(names)) as bar:
        for precision in names:
            path = (precision,) * backbone.segments
            found = [_logits(multi, path)(x).numpy() for _, x, _ in images.batches(ids["validation"], transform, 64)]
            predicted = np.concatenate(found).argmax(axis=1)
            file = stage.out / f"{precision}.safetensors"
            metrics[str(precision)] = {
                "accuracy": float((predicted == labels).mean()),
                "agreement": float((predicted == reference.argmax(axis=1)).mean()),
                "bitflops": cost.static(path),
                "bytes": file.stat().st_size if file.exists() else 4 * sum(p.numel() for p in backbone.parameters()),
                "cost": cost.static(path) / cost.unit,
            }
            bar.advance()
    sample = next(images.batches(ids["validation"], transform, SENSITIVITY_SAMPLES))
    rows = [
        {**row, "executed": row["precision"], "precision": str(p), "position": position}
        for p in tree
        if p in models
        for position, row in enumerate(sensitivity(backbone, models[p], *sample[1:]))
    ]
    write_table(stage.out / "sensitivity.parquet", pa.Table.from_pylist(rows, SENSITIVITY))
    facts = {"calibration_samples": len(ids["calibration"]), "cost": cost.to_json(), "format": FORMAT}
    described = {str(precision): config.to_json() for precision, config in configs.items()}
    write_json(stage.out / "quantization.json", {**facts, "configs": described, "path_aware": settings.path_aware})
    write_json(stage.out / "metrics.json", {"precisions": metrics})


def _quantized(
    backbone: SegmentedBackbone,
    tree: list[Precision],
    configs: dict[Precision, QuantizationConfig],
    batches: list[Tensor],
    path_aware: bool,
    seed: int,
    partial: Path,
) -> dict[Precision, SegmentedBackbone]:
    """The tree's precisions together, where prefixes mix; the others each behind its own."""
    together = [configs[p] for p in tree if p in configs] if path_aware else []
    models = quantize_paths(backbone, together, batches, seed, partial) if together else {}
    for precision, config in configs.items():
        if precision not in models:
            models[precision] = quantize_(deepcopy(backbone), config, batches, partial)  # type: ignore[assignment]
    return models


def _own_layers(backbone: SegmentedBackbone, configs: dict[Precision, QuantizationConfig]) -> dict[str, dict[str, str]]:
    """By precision, the layers that are executed at another, as costs are counted."""
    layers = quantizable(backbone)
    found = {str(p): resolved(layers, config.layers) for p, config in configs.items() if config.layers}
    return {p: {name: str(own) for name, own in sorted(each.items())} for p, each in found.items()}


def _logits(multi: MultiPrecisionBackbone, path: tuple[Precision, ...]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return multi.classify(path[-1], multi.run_path(path, x))

    return run


if __name__ == "__main__":
    main("quantize", run)
