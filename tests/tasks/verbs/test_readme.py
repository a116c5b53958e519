"""README's table of results."""

import json
from pathlib import Path

import pytest

from tasks.verbs.readme import Source, at_stake, summary
from tasks.verbs.results import Results


def source(folder: Path, name: str, **methods: dict[str, float | None]) -> Source:
    (folder / name / "report/figures").mkdir(parents=True)
    (folder / name / "report/figures/curves.svg").write_text("<svg/>")
    for stage, found in {"prepare/dataset": {"dataset": "pictures"}, "backbone/backbone": {"name": "vit"}}.items():
        file = folder / name / f"{stage}.json"
        file.parent.mkdir()
        file.write_text(json.dumps(found))
    metrics = {"fp32_accuracy": 0.9173, "methods": {"static_w8a8": {"accuracy": 0.915}, **methods}}
    points = [
        {"method": method, "budget": 0.1, "test_cost": 0.1, "test_accuracy": 0.9, "budget_met": True}
        for method in metrics["methods"]
    ]
    return Source(name, folder / name, {}, True, Results(name, metrics, points, None))


def rows(text: str) -> list[dict[str, str]]:
    """The first table of a text, a dictionary per row."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_row_tells_the_cost_near_the_float_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    near = {"cost_at_drop_0.5": 0.416, "cost_at_drop_1.0": None}
    alone = {"static_w3a3": {"cost_at_drop_0.5": None}, "confidence_w4a4": {"cost_at_drop_0.5": 0.5}}
    (found,) = rows(summary([source(tmp_path, "photos", quee_auto=near, **alone)]))
    assert found["data set"] == "pictures" and found["float accuracy %"] == "91.73"
    assert found["backbone"] == "vit"
    assert found["`quee_auto`"] == "0.42 / never"
    assert found["one technique alone"] == "0.50 / never", "the cheapest of them"
    assert found["fixed precisions (`static_hull`)"] == "–", "a method that was not measured"
    assert (tmp_path / "docs/figures/overview.svg").is_file()


def test_data_sets_where_something_simpler_is_clearly_cheaper_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near: dict[str, dict[str, float | None]] = {
        "quee_auto": {"cost_at_drop_0.5": 0.4},
        "static_hull": {"cost_at_drop_0.5": 0.5},
    }
    assert "When not to use quee" not in summary([source(tmp_path, "dear", **near)])
    near["static_hull"] = {"cost_at_drop_0.5": 0.3}
    assert "When not to use quee: on pictures fixed precisions or" in summary([source(tmp_path, "cheap", **near)])


def test_a_data_set_has_one_row_of_its_most_accurate_float_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weak, strong, unknown = (source(tmp_path, name) for name in ("weak", "strong", "unknown"))
    weak.results.metrics["fp32_accuracy"] = 0.5
    unknown.results.metrics["fp32_accuracy"] = None
    (found,) = rows(summary([weak, strong, unknown]))
    assert found["float accuracy %"] == "91.73"
    assert 'id="overview-axes_1"' not in (tmp_path / "docs/figures/overview.svg").read_text()


def test_the_accuracy_at_every_gate_is_a_row_per_precision() -> None:
    text = at_stake({"exits": {"w4a4": [0.5, 0.75], "fp32": [0.512, 0.8]}})
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["cut off at gate", "1", "2"]
    assert rows[2:] == [["`w4a4`", "50.00", "75.00"], ["`fp32`", "51.20", "80.00"]]
    assert at_stake({}) == "", "results of before"
