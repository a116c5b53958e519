"""Stage `quantize` with bits by layer executes, records and counts the same bits."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from quee.cost import BitFlops, trace_cost
from quee.data.importers import import_dataset
from quee.network.architectures import create_backbone
from quee.network.files import load_backbone, load_quantized, save_backbone
from quee.precision import Precision
from quee.settings.experiment import load_experiment
from tasks import prepare, quantize
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


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "quee", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)
    file = tmp_path / "experiments" / "mini.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(SETTINGS))
    import_dataset("digits", None, tmp_path / "data" / "digits")
    artifacts = tmp_path / "artifacts" / "mini"
    for name in ("prepare", "backbone", "quantize"):
        (artifacts / name).mkdir(parents=True)
    experiment = load_experiment("mini")
    prepare.run(Stage("prepare", experiment, artifacts / "prepare", artifacts))
    torch.manual_seed(0)
    kwargs = experiment.backbone.kwargs
    save_backbone(artifacts / "backbone", create_backbone("vit_digits", (1, 2), **kwargs), kwargs)
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


def _layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "precision")}
