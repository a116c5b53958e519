"""Stage `quantize`: the backbone at every precision of the tree and of the references."""

from typing import Any

import pyarrow as pa

from quee.cost import trace_cost
from quee.data.source import open_dataset
from quee.data.splits import split_ids
from quee.network.files import load_backbone
from quee.network.predictions import Networks, predict
from quee.precision import Precision
from quee.quantization.calibration_shards import calibrate, measure_sensitivity
from quee.quantization.layers import own_layers
from quee.trees.settled import read_settled
from quee.work.io import FORMAT, read_json, write_json, write_table
from tasks.scale import read_scale
from tasks.stage import Stage, main

FP32 = Precision("fp32")
CALIBRATION_PASSES = 30
"""Time to calibrate a precision, in passes per sample; it decides the number of processes."""
SENSITIVITY_SAMPLES = 128
"""Number of validation samples for the sensitivity of each layer."""
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
    """Quantize the backbone on the calibration split; measure each uniform precision on the validation split.

    The settings of stage `features` decide where it is computed; the result does not depend on it.
    """
    scale = read_scale()
    store = scale.store(stage)
    settings, prepared, settled = stage.experiment.quantize, stage.input("prepare"), read_settled(stage.input("tree"))
    dataset, files = stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"]
    images = open_dataset(stage.data, dataset, files)
    ids = split_ids(prepared / "splits.parquet")
    backbone = load_backbone(stage.input("backbone"))
    own = {name: str(getattr(settings, name) or "") for name in ("stem", "head")}
    tree, names, configs = settled.tree.precisions, settled.quantized, settled.configs(settings)
    networks = Networks.at(stage.data, dataset, files, stage.input("backbone"), device=scale.device)
    cost = trace_cost(backbone, **own, layers=own_layers(backbone, configs.values()))
    together = [configs[p] for p in tree if p in configs] if settings.path_aware else []
    others = [config for config in configs.values() if config not in together]
    lanes = scale.lanes(cost.macs * len(ids["calibration"]) * len(configs) * CALIBRATION_PASSES)
    calibrate(networks, together, others, ids["calibration"], settings.seed, store, scale.work(stage), lanes, stage.out)
    networks = Networks.at(stage.data, dataset, files, stage.input("backbone"), stage.out, scale.device)
    shown = sorted({*names, FP32})
    lanes = scale.lanes(cost.macs * len(shown) * len(ids["validation"]))
    found = predict(networks, shown, ids["validation"], store, scale.shard_size, lanes, "evaluating precisions")
    metrics: dict[str, Any] = {}
    for precision in names:
        path = (precision,) * backbone.segments
        file = stage.out / f"{precision}.safetensors"
        metrics[str(precision)] = {
            "accuracy": float((found[precision] == images.labels[ids["validation"]]).mean()),
            "agreement": float((found[precision] == found[FP32]).mean()),
            "bitflops": cost.static(path),
            "bytes": file.stat().st_size if file.exists() else 4 * sum(p.numel() for p in backbone.parameters()),
            "cost": cost.static(path) / cost.unit,
        }
    alone = [p for p in tree if p in configs]
    lanes = scale.lanes(cost.macs * len(alone) * SENSITIVITY_SAMPLES * len(cost.products))
    layers = measure_sensitivity(networks, alone, ids["validation"][:SENSITIVITY_SAMPLES], store, lanes)
    rows = [
        {**row, "executed": row["precision"], "precision": str(p), "position": position}
        for p in alone
        for position, row in enumerate(layers[p])
    ]
    write_table(stage.out / "sensitivity.parquet", pa.Table.from_pylist(rows, SENSITIVITY))
    facts = {"calibration_samples": len(ids["calibration"]), "cost": cost.to_json(), "format": FORMAT}
    described = {str(precision): config.to_json() for precision, config in configs.items()}
    write_json(stage.out / "quantization.json", {**facts, "configs": described, "path_aware": settings.path_aware})
    write_json(stage.out / "metrics.json", {"device": scale.device, "precisions": metrics, **images.measure.facts})


if __name__ == "__main__":
    main(run)
