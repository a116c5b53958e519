"""Stage `quantize`: the backbone at every precision of the tree and of the references."""

from copy import deepcopy
from dataclasses import asdict

import numpy as np

from quee.cost import trace_cost
from quee.data import open_dataset
from quee.data.splits import split_ids
from quee.data.transforms import Preprocessing
from quee.execution import MultiPrecisionBackbone
from quee.io import FORMAT, read_json, write_json
from quee.precision import Precision
from quee.progress import progress
from quee.quantization import QuantizationConfig, quantize_
from quee.store import load_backbone, save_quantized
from quee.training import predict_logits
from tasks.stage import Stage, main


def run(stage: Stage) -> None:
    """Quantize the backbone on the calibration split; measure each uniform precision on the validation split."""
    settings, paths, prepared = stage.experiment.quantize, stage.experiment.paths, stage.input("prepare")
    images = open_dataset(stage.data, stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"])
    ids = split_ids(prepared / "splits.parquet")
    backbone = load_backbone(stage.input("backbone"))
    transform, cost = Preprocessing.from_timm(backbone.input), trace_cost(backbone)
    batches = [x for _, x, _ in images.batches(ids["calibration"], transform, 64)]
    names = sorted({*map(Precision, paths.precisions + paths.references), Precision("w8a8")})
    reference, labels = predict_logits(backbone, images.batches(ids["validation"], transform, 64))
    models, metrics, configs = {Precision("fp32"): backbone}, {}, {}
    with progress("quantizing", len(names)) as bar:
        for precision in names:
            path = (precision,) * backbone.segments
            if not precision.is_float:
                config = QuantizationConfig(precision, settings.weights, settings.activations, settings.bias_correction)
                models[precision] = quantize_(deepcopy(backbone), config, batches)  # type: ignore[assignment]
                save_quantized(stage.out, precision, models[precision])
                configs[str(precision)] = {**asdict(config), "precision": str(precision)}
            if precision.head not in models:
                config = QuantizationConfig(precision.head, settings.weights, settings.activations)
                models[precision.head] = quantize_(deepcopy(backbone), config, batches)  # type: ignore[assignment]
            multi = MultiPrecisionBackbone(models)
            found = [
                multi.classify(precision, multi.run_path(path, x)).numpy()
                for _, x, _ in images.batches(ids["validation"], transform, 64)
            ]
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
    facts = {"calibration_samples": len(ids["calibration"]), "cost": cost.to_json(), "format": FORMAT}
    write_json(stage.out / "quantization.json", {**facts, "configs": configs})
    write_json(stage.out / "metrics.json", {"precisions": metrics})


if __name__ == "__main__":
    main("quantize", run)
