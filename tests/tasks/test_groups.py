"""The pipeline on images in groups: no split divides one, and every interval counts groups."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_project import SETTINGS, Tiny
from tiny_project import tiny as tiny

from quee.cache.read import read_cache
from quee.data.splits import rotations_of
from quee.errors import UsageError
from quee.work.io import read_json, read_table
from tasks.mlflow.values import numbers


def group(tiny: Tiny, groups: np.ndarray) -> None:
    """Give the training images, then the evaluation images, these groups."""
    first = 0
    for file in sorted((tiny.root / "data" / "patches").iterdir(), reverse=True):
        table = pq.read_table(file)
        own = pa.array(groups[first : first + len(table)], pa.int64())
        pq.write_table(table.append_column("group", own), file)
        first += len(table)


CERTIFIED = {"splits": {**SETTINGS["prepare"]["splits"], "certification": 0.1, "test": 0.1}}


def test_groups_of_one_image_change_no_result(tiny: Tiny) -> None:
    tiny.write(prepare=CERTIFIED)
    alone = tiny.run()
    expected = {name: (alone / "evaluate" / name).read_bytes() for name in ("budgets.parquet", "metrics.json")}
    assert "test_groups" not in tiny.metrics() and not (alone / "features" / "groups.parquet").exists()

    group(tiny, np.random.default_rng(0).permutation(120))
    out = tiny.run()
    metrics, described = tiny.metrics(), read_json(out / "prepare" / "dataset.json")
    assert described["groups"] == 120
    assert metrics.pop("test_groups") == metrics["test_samples"]
    assert metrics["certification"].pop("groups") == metrics["certification"]["samples"]
    assert (out / "evaluate" / "budgets.parquet").read_bytes() == expected["budgets.parquet"]
    assert numbers(metrics) == pytest.approx(numbers(json.loads(expected["metrics.json"])), rel=1e-9, abs=1e-12)


def test_no_split_divides_a_group_and_every_interval_counts_groups(tiny: Tiny) -> None:
    tiny.write(prepare=CERTIFIED)
    group(tiny, np.arange(120) // 3)
    out = tiny.run()
    table, cache = read_table(out / "prepare" / "splits.parquet"), read_cache(out / "features")
    groups, (split,) = table["group"].to_numpy(), rotations_of(table)
    assert all(len(set(split[groups == number])) == 1 for number in np.unique(groups))
    assert cache.group is not None and (cache.group == cache.sample_id // 3).all()
    metrics = tiny.metrics()
    assert metrics["test_groups"] * 3 == metrics["test_samples"]
    assert metrics["certification"]["groups"] * 3 == metrics["certification"]["samples"]


def test_with_folds_every_group_is_tested_whole(tiny: Tiny) -> None:
    splits = {
        "evaluation_set": "held_out", "train": 1.0, "calibration": 16, "folds": 4,
        "predictor": 0.45, "validation": 0.2, "certification": 0.15, "test": 0.2,
    }  # fmt: skip
    tiny.data({"a": 60, "b": 60}, {"a": 40, "b": 40})
    group(tiny, np.arange(200) // 2)
    tiny.write(prepare={"splits": splits})
    out = tiny.run()
    assert tiny.metrics()["test_groups"] == 32
    table = read_table(out / "prepare" / "splits.parquet")
    groups = table["group"].to_numpy()
    for column in (*rotations_of(table), table["fold"].to_numpy()):
        assert all(len(set(column[groups == number])) == 1 for number in np.unique(groups))


def test_too_few_groups_are_refused_at_the_start(tiny: Tiny) -> None:
    group(tiny, np.arange(120) // 24)
    with pytest.raises(UsageError, match=r"prepare.splits.\w+: 1 group of samples of 5 in all; at least 2 are needed"):
        tiny.run("prepare")
    tiny.data({"a": 60, "b": 60}, {"a": 40, "b": 40})
    group(tiny, np.arange(200) % 150)
    tiny.write(prepare={"splits": {**SETTINGS["prepare"]["splits"], "evaluation_set": "held_out"}})
    with pytest.raises(UsageError, match="50 groups, such as 0, have samples on both sides"):
        tiny.run("prepare")
