"""Stage `quantize` executes, records and counts the same bits: by layer, and of products that have a number format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from quee.cost import BitFlops, explain, trace_cost
from quee.data.importers import import_dataset
from quee.network.architectures import create_backbone
from quee.network.files import load_backbone, load_quantized, save_backbone
from quee.precision import Precision
from quee.quantization.layers import layout
from quee.settings.experiment import load_experiment
from tasks import prepare, quantize, tree
from tasks.stage import Stage

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "prepare": {
        "dataset": "digits",
        "splits": {"train": 0.15, "calibration": 96, "predictor": 0.1, "validation": 0.05},
    },
    "backbone": {"name": "vit_digits", "gates": [1, 2], "kwargs": {"depth": 2, "embed_dim": 32}},
    "paths": {"precisions": ["w3a3", "w4a4"], "references": []},
    "quantize": {"mixed": True, "layers": {"blocks.*.mlp.fc2": "w8a8"}},
}


T2T = {
    "prepare": SETTINGS["prepare"],
    "backbone": {
        "name": "t2t_vit_7",
        "gates": [1, 2],
        "kwargs": {"depth": 2, "img_size": 16, "in_chans": 1, "num_classes": 10},
    },
    "paths": {"precisions": ["w4a4", "w8a8"], "references": []},
}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return made(SETTINGS, tmp_path, monkeypatch)


def made(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage of an experiment with these settings, before it runs, behind an untrained backbone and its tree."""
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "quee", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)
    file = tmp_path / "experiments" / "mini.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(settings))
    import_dataset("digits", None, tmp_path / "data" / "digits")
    artifacts = tmp_path / "artifacts" / "mini"
    for name in ("prepare", "backbone", "tree", "quantize"):
        (artifacts / name).mkdir(parents=True)
    experiment = load_experiment("mini")
    prepare.run(Stage("prepare", experiment, artifacts / "prepare", artifacts))
    torch.manual_seed(0)
    name, kwargs = experiment.backbone.name, experiment.backbone.kwargs
    save_backbone(artifacts / "backbone", create_backbone(name, (1, 2), **kwargs), kwargs)
    tree.run(Stage("tree", experiment, artifacts / "tree", artifacts))
    return Stage("quantize", experiment, artifacts / "quantize", artifacts)


def test_bits_by_layer_are_executed_written_down_and_counted(stage: Stage) -> None:
    quantize.run(stage)
    facts = json.loads((stage.out / "quantization.json").read_text())
    metrics = json.loads((stage.out / "metrics.json").read_text())["precisions"]
    backbone, cost = load_backbone(stage.artifacts / "backbone"), BitFlops.from_json(facts["cost"])
    fixed = {f"blocks.{index}.mlp.fc2": "w8a8" for index in (0, 1)}
    assert facts["configs"]["w8a8"]["layers"] == {"blocks.*.mlp.fc2": "w8a8"}
    given = trace_cost(backbone, layers={"w3a3": fixed, "w4a4": fixed})
    for name in ("w3a3", "w4a4"):
        path = (Precision(name),) * 2
        executed = {n: str(p.precision) for n, p in _layers(load_quantized(stage.out, path[0], backbone)).items()}
        own = facts["cost"]["layers"][name]
        assert own == facts["configs"][name]["layers"]
        assert executed == {layer: own.get(layer, name) for layer in executed} | {"head": "w8a8"}
        assert fixed.items() < own.items()
        assert metrics[name]["bitflops"] == cost.static(path) <= given.static(path)


@pytest.mark.parametrize("told", ["auto", "fp32", "bf16", "int8"])
def test_the_format_of_products_is_measured_or_told_and_executed_written_down_and_counted(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = {"preset": "minmax"} | ({} if told == "auto" else {"float_products": told})
    stage = made({**T2T, "quantize": block}, tmp_path, monkeypatch)
    quantize.run(stage)
    facts = json.loads((stage.out / "quantization.json").read_text())
    metrics = json.loads((stage.out / "metrics.json").read_text())
    said = json.loads((stage.artifacts / "tree" / "tree.json").read_text())["float_products"]
    assert len(said["products"]) == 10
    if told == "auto":
        assert [row["format"] for row in said["measured"]] == ["int8", "bf16"]
        kept = [row["format"] for row in said["measured"] if row["low"] <= said["limit"]]
        assert said["format"] == [*kept, "fp32"][0]
        assert {row["samples"] for row in said["measured"]} == {90}  # all of the validation split
    else:
        assert (said["format"], said["measured"]) == (told, [])
    bits = {"fp32": 32, "bf16": 16, "int8": 8}[said["format"]]
    backbone, cost = load_backbone(stage.artifacts / "backbone"), BitFlops.from_json(facts["cost"])
    for name in ("w4a4", "w8a8"):
        assert facts["configs"][name]["float_products"] == said["format"]
        parts = layout(load_quantized(stage.out, Precision(name), backbone))
        found = {parts[product][1].removesuffix("_balanced") for product in said["products"] if product in parts}
        assert found == {said["format"]} - {"fp32"}
        rows = [row for row in explain(cost, (Precision(name),) * 2) if row[0] in said["products"]]
        assert {row[4] for row in rows} == {f"{bits}×{bits}"}
        assert metrics["precisions"][name]["bitflops"] == cost.static((Precision(name),) * 2)


def _layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "precision")}
