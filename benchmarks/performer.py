"""What the number format of a performer's products changes: answers, accuracy, cost, and whether engines still agree.

    python benchmarks/performer.py [EXPERIMENT] [--formats bf16,int8] [--products] [--folder FOLDER] [--json FILE]

With `--products` only the float network runs, on all predictor and validation images of the experiment, with its products in
each format and in int8 without balance.

Otherwise networks are quantized once for each format. Accuracy is that of uniform precisions on `COMPARED` of the experiment's
predictor and validation images, with paired differences to fp32; no test image is in it. For `--formats` the rest of the
pipeline runs too, on a part of the images (`SHARES`) with few fitting passes, and `agreement.py` puts 1,000 test images through
the stages' networks, the bundle and the engines.

A folder that is kept goes on where an earlier call stopped. Data: `make street-characters`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from projects import ROOT, run_stages, write_project

from quee.data.splits import split_groups, split_ids
from quee.evenly import evenly
from quee.intervals import half_width
from quee.network.base import SegmentedBackbone
from quee.network.execution import MICRO_BATCH
from quee.network.files import load_backbone
from quee.network.predictions import Networks, predict
from quee.precision import Precision
from quee.quantization.format_choice import answers, changed_share
from quee.quantization.formats import FLOAT, Int8MatMul, float_products, round_products
from quee.settings.experiment import read_content
from quee.work.io import read_json
from quee.work.store import Store
from quee.work.workers import Inline, Workers

SHARES = {"predictor": 0.06, "validation": 0.03, "certification": 0.0, "test": 0.05}
COMPARED = 4500
NETWORKS = ("prepare", "backbone", "quantize")
WHOLE = (*NETWORKS, "exits", "features", "targets", "predictors", "policies", "evaluate", "bundle")
IMAGES = 1000
FEW: dict[str, dict[str, Any]] = {
    "exits": {"draws": 1, "max_samples": 4000, "pooling": "cls_mean", "head": "linear"},
    "targets": {"sweep": [20]},
    "evaluate": {"seeds": 1, "bootstrap": 100, "quality": {"widths": [], "samples": [], "noise": [], "clusters": []}},
}
"""Settings for which neither agreement nor the accuracy of uniform precisions is better, but time is less."""


def content_of(experiment: str, number_format: str) -> dict[str, Any]:
    """The blocks of an experiment with one format; with all held-out images for fp32, else with few."""
    file = ROOT / "experiments" / f"{experiment}.yaml"
    content = read_content(file.read_text(), str(file))
    if number_format != FLOAT:
        content["prepare"]["splits"] = {**content["prepare"]["splits"], **SHARES}
    content["quantize"] = {**content.get("quantize", {}), "float_products": number_format}
    content["paths"]["references"] = ["fp32"]
    content.pop("ablate", None)
    return {**content, **{name: {**content.get(name, {}), **own} for name, own in FEW.items()}}


@dataclass(frozen=True)
class Rows:
    """The images that formats are compared on."""

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None

    @classmethod
    def of(cls, artifacts: Path, labels: np.ndarray, most: int | None) -> "Rows":
        """Predictor and validation images, at most so many, evenly spread; `labels` are those of the whole data set."""
        file = artifacts / "prepare" / "splits.parquet"
        splits = split_ids(file)
        every = np.sort(np.concatenate([splits["predictor"], splits["validation"]]))
        ids = every if most is None else every[evenly(len(every), most)]
        return cls(ids, labels[ids], split_groups(file, ids))

    def accuracy(self, answers: np.ndarray, other: np.ndarray) -> dict[str, float]:
        """Accuracy with the half-width of its 95 % interval, and the paired difference to the accuracy of other answers."""
        right, before = (answers == self.labels).astype(float), (other == self.labels).astype(float)
        return {
            "accuracy": right.mean(),
            "half_width": half_width(right, 1.96, self.groups),
            "difference": (right - before).mean(),
            "difference_half_width": half_width(right - before, 1.96, self.groups),
        }


def networks_of(folder: Path, name: str, quantized: bool) -> Networks:
    artifacts = folder / "artifacts" / name
    dataset = read_json(artifacts / "prepare" / "dataset.json")
    images = folder / "data" / dataset["dataset"]
    precise = artifacts / "quantize" if quantized else None
    return Networks.at(images, dataset["dataset"], dataset["files"], artifacts / "backbone", precise)


def rows_of(folder: Path, experiment: str, most: int | None = None) -> Rows:
    name = f"{experiment}_{FLOAT}"
    return Rows.of(folder / "artifacts" / name, networks_of(folder, name, quantized=False).images().labels, most)


def by_precision(folder: Path, experiment: str, formats: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each format and uniform precision: accuracy, its difference to the products in fp32, and cost."""
    found: dict[str, dict[Precision, np.ndarray]] = {}
    rows = list[dict[str, Any]]()
    images = rows_of(folder, experiment, COMPARED)
    for one in sorted(formats, key=lambda name: name != FLOAT):
        name = f"{experiment}_{one}"
        networks = networks_of(folder, name, quantized=True)
        shown = read_json(folder / "artifacts" / name / "quantize" / "metrics.json")["precisions"]
        store = Store(str((folder / "predictions" / name).resolve()))
        lanes = Inline(Workers())
        precisions = sorted(found[FLOAT] if FLOAT in found else map(Precision, shown))
        found[one] = predict(networks, precisions, images.ids, store, 64, lanes, "accuracy of uniform precisions")
        for precision, own_answers in found[one].items():
            own = images.accuracy(own_answers, found[FLOAT][precision])
            named = {"format": one, "precision": str(precision), "images": len(images.ids)}
            rows.append({**named, **own, "cost": shown[str(precision)]["cost"]})
    return rows


def unbalanced(backbone: SegmentedBackbone) -> SegmentedBackbone:
    """The network with its products in int8, none of which is balanced."""
    for product in float_products(backbone):
        backbone.set_submodule(product, Int8MatMul())
    return backbone


def products_alone(folder: Path, experiment: str, formats: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each format, and for int8 without balance: what it changes in the float network's answers."""
    networks, images = networks_of(folder, f"{experiment}_{FLOAT}", quantized=False), rows_of(folder, experiment)
    model = load_backbone(Path(networks.backbone))
    made = {one: round_products(deepcopy(model), one) for one in formats} | {
        "int8, unbalanced": unbalanced(deepcopy(model))
    }
    found: dict[str, list[np.ndarray]] = {one: [] for one in made}
    for _, x, _ in networks.images().batches(images.ids, model.input, MICRO_BATCH):
        for one, network in made.items():
            found[one].append(answers(network, x))
    given = {one: np.concatenate(parts) for one, parts in found.items()}
    rows = []
    for one, own in given.items():
        changed = int((own != given[FLOAT]).sum())
        low, high = changed_share(changed, len(own))
        row = {"format": one, "images": len(own), "changed": changed, "low": low, "high": high}
        rows.append({**row, **images.accuracy(own, given[FLOAT])})
    return rows


def agreement(folder: Path, name: str) -> dict[str, Any]:
    """What `agreement.py` finds on test images, through every way of execution."""
    file = folder / f"agreement-{name}.json"
    if not file.is_file():
        command = [
            sys.executable, str(ROOT / "benchmarks" / "agreement.py"), name, "--limit", str(IMAGES), "--json", str(file),
            "--artifacts", str(folder / "artifacts"), "--data", str(folder / "data"), "--budgets", "0.1", "0.2", "0.4",
        ]  # fmt: skip
        subprocess.run(command, check=False)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def stages_of(one: str, executed: Sequence[str], products: bool) -> tuple[str, ...]:
    """The stages that a comparison needs."""
    return NETWORKS[:-1] if products else WHOLE if one in executed else NETWORKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="street_characters")
    parser.add_argument("--formats", default="bf16,int8", help="those whose execution is compared")
    parser.add_argument("--products", action="store_true", help="compare the float network in each format alone")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    executed = options.formats.split(",")
    formats = [*executed, *[FLOAT] * (FLOAT not in executed)]
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.folder or Path(temporary)
        for one in [FLOAT] if options.products else formats:
            content = content_of(options.experiment, one)
            name = f"{options.experiment}_{one}"
            write_project(folder, name, content, content["backbone"]["weights"])
            run_stages(stages_of(one, executed, options.products), folder, name)
        results: dict[str, Any] = {"products": products_alone(folder, options.experiment, [FLOAT, *executed])}
        if not options.products:
            results["precisions"] = by_precision(folder, options.experiment, formats)
        for rows in results.values():
            for row in rows:
                print(
                    *(f"{key} {value:.4g}" if isinstance(value, float) else value for key, value in row.items()),
                    flush=True,
                )
        if not options.products:
            results["agreement"] = {one: agreement(folder, f"{options.experiment}_{one}") for one in executed}
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
