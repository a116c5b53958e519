"""Stage `tree` settles what the settings leave open, and later stages take it from there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_project import Tiny
from tiny_project import tiny as tiny

import tasks.tree
from quee.errors import IntegrityError
from quee.precision import Precision
from quee.settings.experiment import load_experiment
from quee.trees.candidates import Rows
from quee.trees.settled import read_settled
from quee.work.io import read_table, write_json
from tasks.resolved import stage_settings

CANDIDATES = ["w2a3", "w3a3", "w6a6"]


def settle(tiny: Tiny, **blocks: Any) -> tuple[Path, dict[str, Any]]:
    tiny.write(**blocks)
    artifacts = tiny.run("settings", "prepare", "backbone", "tree")
    return artifacts, json.loads((artifacts / "tree" / "tree.json").read_text())


def test_a_tree_as_named_with_uniform_bits_measures_nothing(tiny: Tiny) -> None:
    _, found = settle(tiny, quantize={"preset": "minmax", "mixed": False})
    assert found["choice"] == found["layers"] == {}
    assert found["precisions"] == ["w4a4", "w8a8"] and found["references"] == ["fp32"]
    assert found["paths"][:2] == ["w4a4", "w8a8"] and len(found["paths"]) == 6 and found["gates"] == [1, 2]


def test_a_chosen_tree_is_what_later_stages_run(tiny: Tiny) -> None:
    """Also: a reference that the tree takes in is no reference any more, and a second run writes the same bytes."""
    paths = {"precisions": {"auto": 2}, "candidates": CANDIDATES, "references": ["w3a3", "w4a4", "fp32"]}
    artifacts, found = settle(tiny, paths=paths)
    chosen, choice = found["precisions"], found["choice"]
    assert len(chosen) == 2 and {*chosen} < {*CANDIDATES}
    assert found["references"] == [name for name in ["w3a3", "w4a4", "fp32"] if name not in chosen]
    measured = [(row["precision"], row["by_layer"]) for row in choice["candidates"]]
    assert {name for name, _ in measured} >= {*CANDIDATES, "w4a4"}
    decided = {row["precision"]: row["kept"] for row in choice["by_layer"]}
    assert {*found["layers"]} == {name for name, kept in decided.items() if kept}
    assert all((name, True) in measured and (name, False) in measured for name in decided)
    assert choice["passes"] % len(measured) == 0
    first = (artifacts / "tree" / "tree.json").read_bytes()
    tiny.run("tree")
    assert (artifacts / "tree" / "tree.json").read_bytes() == first

    tiny.run("quantize", "exits", "features")
    cached = json.loads((artifacts / "features" / "tree.json").read_text())
    assert cached["precisions"] == chosen and [node["path"] for node in cached["nodes"]] == found["paths"]
    configs = json.loads((artifacts / "quantize" / "quantization.json").read_text())["configs"]
    assert {name: configs[name]["layers"] for name in found["layers"]} == found["layers"]
    assert {*tiny.metrics("quantize")["precisions"]} == {*chosen, *found["references"], "w8a8"}


def test_named_precisions_get_bits_by_layer_where_these_are_not_worse(tiny: Tiny) -> None:
    artifacts, found = settle(tiny, paths={"precisions": ["w4a4", "w8a8"], "references": []})
    assert [row["precision"] for row in found["choice"]["by_layer"]] in ([], ["w4a4"])
    assert "sets" not in found["choice"] and found["precisions"] == ["w4a4", "w8a8"]
    experiment = stage_settings("tiny", artifacts)
    configs = read_settled(artifacts / "tree").configs(experiment.quantize)
    assert {*configs} == {Precision("w4a4"), Precision("w8a8")} and not configs[Precision("w8a8")].layers


def test_with_folds_no_tested_image_chooses_the_tree(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[np.ndarray] = []
    measure = tasks.tree.measure

    def seen(networks: Any, configs: Any, rows: Rows, *others: Any) -> Any:
        judged.append(rows.judged)
        return measure(networks, configs, rows, *others)

    monkeypatch.setattr(tasks.tree, "measure", seen)
    tiny.data({"a": 60, "b": 60}, {"a": 30, "b": 30})
    shares = {
        "train": 1.0, "calibration": 16, "predictor": 0.4, "validation": 0.2, "test": 0.4, "folds": 2,
        "evaluation_set": "held_out",
    }  # fmt: skip
    artifacts, found = settle(
        tiny,
        prepare={"dataset": "patches", "splits": shares},
        paths={"precisions": {"auto": 1}, "candidates": ["w3a3", "w4a4"]},
        evaluate={"resplits": 0},
    )
    table = read_table(artifacts / "prepare" / "splits.parquet")
    tested = table["sample_id"].to_numpy()[table["fold"].to_numpy() >= 0]
    assert judged and not np.isin(np.concatenate(judged), tested).any() and len(tested) == 48
    assert found["choice"]["images"]["judged"] == 12 and len(found["precisions"]) == 1


def test_a_tree_of_another_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_json(tmp_path / "tree.json", {"format": 0})
    with pytest.raises(IntegrityError, match="format 0; this version reads 1: run stage tree again"):
        read_settled(tmp_path)


def test_new_experiments_have_their_tree_chosen(tiny: Tiny) -> None:
    tiny.write()
    assert load_experiment("tiny").paths.named == ("w4a4", "w8a8")
    blocks = {**yaml.safe_load((tiny.root / "experiments" / "tiny.yaml").read_text()), "paths": {}}
    (tiny.root / "experiments" / "other.yaml").write_text(yaml.safe_dump(blocks))
    other = load_experiment("other")
    assert other.paths.named == () and other.paths.precisions.auto == 3 and other.quantize.mixed == "auto"
