"""The pipeline on a machine with a GPU, which is emulated: the CPU's results, and each says what made it."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from emulated_gpu import emulated_gpu
from tiny_project import Tiny
from tiny_project import tiny as tiny

from quee.work.io import read_json

pytestmark = pytest.mark.slow

NETWORKS = ("tree", "quantize", "exits", "features")
"""The stages behind `backbone` that run networks."""
OTHERS = ("targets", "predictors", "policies", "evaluate")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder; of JSON without the device."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = file.read_bytes()
        if file.suffix == ".json":
            data = json.dumps(without_device(json.loads(data))).encode()
        found[str(file.relative_to(folder))] = sha256(data).hexdigest()
    return found


def without_device(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_device(item) for key, item in value.items() if key != "device"}
    return value


def test_a_gpu_makes_what_the_cpu_makes_and_results_say_which(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write(paths={"precisions": "auto", "references": ["fp32"]})
    monkeypatch.setenv("QUEE_DEVICE", "cpu")
    artifacts = tiny.run("settings", "prepare", "backbone", *NETWORKS)
    made = {stage: contents(artifacts / stage) for stage in NETWORKS}
    monkeypatch.setenv("QUEE_DEVICE", "cuda")
    with emulated_gpu():
        tiny.run(*NETWORKS)
    assert {stage: contents(artifacts / stage) for stage in NETWORKS} == made
    assert tiny.metrics("backbone")["device"] == "cpu"
    assert tiny.metrics("quantize")["device"] == tiny.metrics("exits")["device"] == "cuda"
    assert read_json(artifacts / "features" / "tree.json")["device"] == "cuda"
    assert read_json(artifacts / "tree" / "tree.json")["choice"]["device"] == "cuda"


def test_stages_without_networks_run_beside_a_gpu(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = tiny.run("settings", "prepare", "backbone", *NETWORKS, *OTHERS)
    made = {stage: contents(artifacts / stage) for stage in OTHERS}
    with emulated_gpu():
        tiny.run(*OTHERS)
    assert {stage: contents(artifacts / stage) for stage in OTHERS} == made
