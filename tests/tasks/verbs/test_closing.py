"""The last lines of `quee run`."""

import shutil
from pathlib import Path

import pytest
from evaluated_project import write_evaluation

from quee.work.io import read_json, write_json
from tasks.verbs.closing import closing_lines

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    text = (EXPERIMENTS / "digits.yaml").read_text()
    (tmp_path / "experiments/digits.yaml").write_text(f"{text}\nbundle: {{policy: plan, budget: 0.25}}\n")
    write_evaluation(tmp_path / "artifacts/digits/evaluate")
    return tmp_path


def test_a_run_ends_with_the_result_the_report_and_the_commands_that_come_next(project: Path) -> None:
    for file in ("report/report.html", "bundle/bundle.json"):
        path = project / "artifacts/digits" / file
        path.parent.mkdir(parents=True)
        path.write_text("")
    lines = list(closing_lines(project, ["digits"]))
    assert len(lines) <= 5
    assert lines[0].startswith(
        "digits: quee_plan is right on 90.0 % of the test images at cost 0.2 (1 is the static w8a8"
    )
    assert lines[0].endswith("; the float network: 97.5 % at cost 16")
    assert lines[1:3] == ["report: artifacts/digits/report/report.html", "compare: quee results digits"]
    assert lines[3].startswith("serve: quee serve artifacts/digits/bundle")


def test_what_is_not_there_is_left_out(project: Path) -> None:
    metrics = project / "artifacts/digits/evaluate/metrics.json"
    write_json(metrics, {**read_json(metrics), "fp32_accuracy": None})
    lines = list(closing_lines(project, ["digits", "absent"]))
    assert len(lines) == 2 and "float" not in lines[0] and lines[1] == "compare: quee results digits"
    shutil.rmtree(project / "artifacts")
    assert list(closing_lines(project, ["digits"])) == []
