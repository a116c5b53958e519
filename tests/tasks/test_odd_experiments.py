"""Experiments at the edges of what settings allow, through every stage to a bundle that answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import small_cache, small_experiment
from tiny_project import Tiny, patch
from tiny_project import tiny as tiny

from quee.runtime import load_bundle
from quee.work.io import read_json, read_table
from quee.work.percentages import impossible

EVEN = {"a": 60, "b": 60}
MANY = {f"c{i:03d}": 3 for i in range(300)}
CERTIFIED = {"train": 0.4, "calibration": 16, "predictor": 0.2, "validation": 0.1, "certification": 0.1, "test": 0.2}
CASES: dict[str, tuple[dict[str, int], dict[str, Any], int | None]] = {
    "one segment": (EVEN, {"backbone": {"gates": [2]}}, None),
    "one segment, one precision, no reference": (
        EVEN, {"backbone": {"gates": [2]}, "paths": {"precisions": ["w4a4"], "references": []}}, None,
    ),
    "one precision": (EVEN, {"paths": {"precisions": ["w8a8"]}}, None),
    "any order, no reference": (EVEN, {"paths": {"precisions": ["w8a8", "w3a3"], "references": []}}, None),
    "floats alone": (EVEN, {"paths": {"precisions": ["fp32", "bf16"], "references": []}}, None),
    "no embedding": (EVEN, {"exits": {"embedding": 0, "pooling": "cls"}, "evaluate": {"resplits": 2, "seeds": 2}}, None),
    "many classes, small network, certified": (
        {f"c{i:03d}": 6 for i in range(150)}, {"prepare": {"splits": CERTIFIED}, "bundle": {"policy": "plan"}}, None,
    ),
    "a class of two, dollars in names": ({"$\\a$": 60, "b$": 60, "<c>": 2}, {}, None),
    "a smoke run of many classes": (MANY, {}, 200),
    "a smoke run of few samples": ({"a": 200, "b": 200}, {"targets": {"clusters": 50}}, 30),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_odd_experiment_comes_to_a_bundle_that_answers(tiny: Tiny, case: str) -> None:
    counts, blocks, limit = CASES[case]
    tiny.data(counts)
    tiny.write(**blocks)
    out = tiny.run(limit=limit)
    bundle = load_bundle(out / "bundle")
    found = bundle.route(np.stack([patch(k % 2, 500 + k)[..., 0] for k in range(8)]))
    assert found.probabilities.shape == (8, len(counts))
    assert all(len(path.split("-")) <= bundle.tree.segments for path in found.path)
    assert [str(p) for p in bundle.tree.precisions] == sorted(
        map(str, bundle.tree.precisions)
    ) or case == "floats alone"
    metrics = read_json(out / "evaluate" / "metrics.json")
    assert list(impossible(metrics)) == []
    _float_accuracy_is_told_or_said_not_to_be(out, metrics, blocks)
    rows = [
        row
        for file in ("budgets", "bands", "curve")
        for row in read_table(out / f"evaluate/{file}.parquet").to_pylist()
    ]
    assert all(0 <= row[key] <= 1 for row in rows for key in row if key.endswith("accuracy"))


def _float_accuracy_is_told_or_said_not_to_be(out: Path, metrics: dict[str, Any], blocks: dict[str, Any]) -> None:
    page = (out / "report" / "report.html").read_text()
    paths = {"precisions": ["w4a4", "w8a8"], "references": ["fp32"]} | blocks.get("paths", {})
    told = "fp32" in paths["precisions"] + paths["references"]
    assert (metrics["fp32_accuracy"] is not None) == told
    assert ("fp32 is neither among paths.precisions nor among paths.references" in page) == (not told)
    if told:
        assert metrics["fp32_accuracy"] == metrics["methods"]["static_fp32"]["accuracy"]
    else:
        assert {row["cost_at_drop_1.0"] for row in metrics["methods"].values()} == {None}
        assert metrics["cost_at_drop"] == {}


@pytest.mark.slow
def test_the_order_of_precisions_changes_no_result(tiny: Tiny) -> None:
    tables = []
    for order in (["w4a4", "w8a8"], ["w8a8", "w4a4"]):
        tiny.write(paths={"precisions": order})
        out = tiny.run()
        tables.append([(file.name, file.read_bytes()) for file in sorted((out / "bundle").iterdir())])
    assert tables[0] == tables[1]


def test_without_predictors_there_is_nothing_to_ablate_but_precisions() -> None:
    from quee.evaluation.ablation.fit import Study, evaluate, fit, prepare
    from quee.evaluation.ablation.grid import points

    cache = small_cache(120, segments=1)
    experiment = small_experiment()
    grid = points(experiment, cache.tree, cache.description["feature_names"])
    assert {point.axis for point in grid} == {"base", "precisions", "first_step", "reference"}
    study = Study(cache, experiment, "here")
    for point in grid:
        prepared = prepare(study, point.recipe, 0)
        outcome = evaluate(study, prepared, fit(study, prepared) if point.recipe.learns else None)
        assert 0 <= outcome.facts["auc"] <= 1
