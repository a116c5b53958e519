"""Stage `evaluate` with folds, on 80 held-out images: every one but the 16 of validation is tested once."""

from pathlib import Path

import numpy as np
import pytest
from tiny_project import Tiny
from tiny_project import tiny as tiny

from quee.cache.read import FeatureCache, read_cache
from quee.errors import UsageError
from quee.runtime import load_bundle
from quee.work.io import read_json, read_table

SPLITS = {
    "evaluation_set": "held_out", "train": 1.0, "calibration": 16, "folds": 4,
    "predictor": 0.45, "validation": 0.2, "certification": 0.15, "test": 0.2,
}  # fmt: skip
HELD_OUT, TESTED = 80, 64


def test_with_folds_every_held_out_image_but_validation_is_tested_once(tiny: Tiny) -> None:
    tiny.data({"a": 60, "b": 60}, {"a": 40, "b": 40})
    tiny.write(prepare={"splits": SPLITS}, evaluate={"seeds": 2})
    out = tiny.run()
    described, metrics = read_json(out / "prepare" / "dataset.json"), tiny.metrics()
    assert described["folds"] == 4
    assert described["splits"] == {"train": 120, "predictor": 36, "validation": 16, "certification": 12, "test": 16}
    assert (metrics["folds"], metrics["test_samples"]) == (4, TESTED)
    cache = read_cache(out / "features")
    _static_methods_are_right_as_often_as_the_cache_says(cache, _tested(out, cache), metrics)
    usage = [row for row in read_table(out / "evaluate" / "usage.parquet").to_pylist() if row["method"] == "quee_plan"]
    for budget in {row["budget"] for row in usage}:
        assert sum(row["samples"] for row in usage if row["budget"] == budget) == pytest.approx(TESTED)
    _the_bundle_is_the_first_rotations(out, cache, metrics)
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert f"cross-fitted over 4 folds of the held-out images: each of the {TESTED} images is tested once" in page


def _tested(out: Path, cache: FeatureCache) -> np.ndarray:
    """Rows of the cache that some rotation tests."""
    table = read_table(out / "prepare" / "splits.parquet")
    return np.flatnonzero(np.isin(cache.sample_id, table["sample_id"].to_numpy()[table["fold"].to_numpy() >= 0]))


def _static_methods_are_right_as_often_as_the_cache_says(
    cache: FeatureCache, tested: np.ndarray, metrics: dict
) -> None:
    assert len(cache) == HELD_OUT
    for precision in ("w4a4", "w8a8"):
        node = cache.tree.node(f"{precision}-{precision}")
        right = 1 - cache.error[tested, node].mean()
        assert metrics["methods"][f"static_{precision}"]["accuracy"] == pytest.approx(right)
    assert metrics["fp32_accuracy"] == pytest.approx(1 - cache.reference_error[tested, -1].mean())


def _the_bundle_is_the_first_rotations(out: Path, cache: FeatureCache, metrics: dict) -> None:
    """Guarantees and points come from the first rotation's validation and certification images."""
    certification = metrics["certification"]
    assert (certification["samples"], certification["test_samples"]) == (12, 16)
    bundle = load_bundle(out / "bundle")
    first = cache.of("validation")
    node = cache.tree.node("w8a8-w8a8")
    assert len(first) == 16
    points = read_table(out / "evaluate" / "operating_points.parquet").to_pylist()
    (static,) = {p["validation_accuracy"] for p in points if p["method"] == "static_w8a8"}
    assert static == pytest.approx(1 - first.error[:, node].mean())
    assert max(point.cost for point in bundle.points) <= 1.5
    assert np.isin([round(point.accuracy * 16, 6) for point in bundle.points], range(17)).all()


def test_folds_and_resplits_together_are_refused(tiny: Tiny) -> None:
    tiny.write(prepare={"splits": SPLITS}, evaluate={"resplits": 3})
    with pytest.raises(UsageError, match=r"tiny\.yaml: evaluate\.resplits: 3; with prepare\.splits\.folds .* valid: 0"):
        tiny.run("settings")
