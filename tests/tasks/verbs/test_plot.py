"""Accuracy over cost in characters."""

import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from evaluated_project import write_evaluation

from quee.errors import UsageError
from quee.work.io import write_table
from tasks.verbs.plot import drawn, plotted
from tasks.verbs.results import load_results

LINES = {"quee_plan": [(0.05, 0.90), (0.2, 0.95), (1.0, 0.97)], "static_hull": [(0.1, 0.92), (0.9, 0.94)]}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_plot_fits_its_width_and_names_every_line(width: int) -> None:
    text = drawn(LINES, 0.975, "accuracy", width)
    assert max(map(len, text.splitlines())) <= width
    assert "quee_plan" in text and "static_hull" in text and "· float" in text


def test_a_line_rises_to_the_right_and_a_better_one_lies_higher() -> None:
    rows = drawn(LINES, None, "accuracy", 80).splitlines()[1:-2]
    marks = {line.rpartition(" ")[2]: line.rpartition(" ")[0][-1] for line in rows if line.endswith(tuple(LINES))}
    assert set(marks) == set(LINES)
    places = {
        name: [(row, at) for row, line in enumerate(rows) for at, char in enumerate(line[:66]) if char == mark]
        for name, mark in marks.items()
    }
    for points in places.values():
        by_column = sorted((at, row) for row, at in points)
        assert all(after[1] <= before[1] for before, after in itertools.pairwise(by_column))
    assert min(row for row, _ in places["quee_plan"]) < min(row for row, _ in places["static_hull"])


def test_one_point_or_none_is_no_fault() -> None:
    assert "●" in drawn({"static_w8a8": [(1.0, 0.9)]}, None, "accuracy", 80)
    assert drawn({}, None, "accuracy", 80) == "nothing to plot"


def test_the_plot_is_of_the_test_split_and_results_without_a_curve_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts/digits/evaluate"
    write_evaluation(folder)
    with pytest.raises(UsageError, match=r"no artifacts/digits/evaluate/curve.parquet to plot; `quee run digits`"):
        plotted(tmp_path, load_results(tmp_path, "digits"), ["quee_plan"])
    row = {"method": "quee_plan", "lambda": 1.0, "threshold": None, "seed": 0}
    rows = [
        row | {"split": s, "accuracy": a, "cost": c}
        for s, a, c in (("test", 0.9, 0.1), ("test", 0.95, 0.9), ("validation", 0.1, 0.2))
    ]
    write_table(folder / "curve.parquet", pa.Table.from_pylist(rows))
    text = plotted(tmp_path, load_results(tmp_path, "digits"), ["quee_plan", "oracle"])
    assert "quee_plan" in text and "oracle" not in text and " 10.0 " not in text
