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
    return Source(name, folder / name, {}, True, Results(name, metrics, [], None))


def test_a_row_tells_the_cost_near_the_float_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    near = {"cost_at_drop_0.5": 0.416, "cost_at_drop_1.0": None}
    alone = {"static_w3a3": {"cost_at_drop_0.5": None}, "confidence_w4a4": {"cost_at_drop_0.5": 0.5}}
    text = summary([source(tmp_path, "photos", quee_auto=near, **alone)])
    head, _, row = text.splitlines()[2:5]
    found = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert found["experiment"] == "photos" and found["float accuracy %"] == "91.73"
    assert found["data set"] == "pictures" and found["backbone"] == "vit"
    assert found["`quee_auto`"] == "0.42 / never"
    assert found["one technique alone"] == "0.50 / never", "the cheapest of them"
    assert found["`static_hull`"] == "–", "a method that was not measured"
    assert "docs/figures/overview.svg" in text and (tmp_path / "docs/figures/overview.svg").is_file()
    assert (tmp_path / "docs/figures/photos.svg").is_file()


def test_the_accuracy_at_every_gate_is_a_row_per_precision() -> None:
    text = at_stake({"exits": {"w4a4": [0.5, 0.75], "fp32": [0.512, 0.8]}})
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["cut off at gate", "1", "2"]
    assert rows[2:] == [["`w4a4`", "50.00", "75.00"], ["`fp32`", "51.20", "80.00"]]
    assert at_stake({}) == "", "results of before"
