"""The table of the paper's claims."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from quee.evaluation.formats import EARLIER
from quee.work.io import write_table
from tasks.verbs.claims import table

GAIN = {"mean": 0.0123, "low": -0.002, "high": 0.03}
LARGE = {"mean": 0.05, "low": 0.04, "high": 0.06}
GAINS = {
    "gain.quee_plan.quee_plan_exits_only_w3a3": LARGE,
    "gain.quee_plan.quee_plan_exits_only_w8a8": GAIN,
    "gain.quee_plan.static_hull": LARGE,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "targets").mkdir()
    rows = [
        {"clusters": clusters, "ece": ece, "gate": 1, "node": node, "split": split}
        for clusters, ece in ((1, 0.02), (5, 0.01), (20, 0.04))
        for node in (0, 1)
        for split in ("predictor", "validation")
    ]
    write_table(tmp_path / "targets/calibration.parquet", pa.Table.from_pylist(rows))
    (tmp_path / "features").mkdir()
    nodes = [
        {"gate": 1, "head_cost": 0.001, "predictor_cost": 0.0005},
        {"gate": 2, "head_cost": 0.2, "predictor_cost": 0},
    ]
    (tmp_path / "features/tree.json").write_text(json.dumps({"nodes": nodes}))
    return tmp_path


def row(folder: Path, metrics: dict[str, Any]) -> dict[str, str]:
    head, _, line = table([("photos", folder, metrics)]).splitlines()
    return dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))


def test_a_row_holds_what_the_results_say_of_each_claim(folder: Path) -> None:
    found = row(folder, {"gains": GAINS, "quality_rank_correlation": -0.8})
    assert found["experiment"] == "photos"
    assert found["over the best exits alone"] == "+1.23 [-0.20, +3.00] at w8a8", "those that come nearest"
    assert found["over `static_hull`"] == "+5.00 [+4.00, +6.00]"
    assert found["over precisions alone"] == "–", "not measured"
    assert found["4. RMSE and `auc`"] == "-0.80"
    assert found["5. ECE at K = 1; least, at K"] == "0.0200; 0.0100, 5"
    assert found["6. a gate's cost %"] == "0.15", "the last gate is the network's own end"


def test_re_divisions_count_before_a_single_one(folder: Path) -> None:
    found = row(folder, {"gains": GAINS, "resplits": {"gain.quee_plan.static_hull": GAIN}})
    assert found["over `static_hull`"] == "+1.23 [-0.20, +3.00]"


def test_gains_by_the_former_auc_are_marked(folder: Path) -> None:
    found = row(folder, {EARLIER: {"gains": GAINS}})
    assert found["experiment"] == "photos*" and found["over `static_hull`"] == "+5.00 [+4.00, +6.00]"
