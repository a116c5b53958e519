"""The last lines of `quee run`."""

import shutil
from pathlib import Path

import pytest
from evaluated_project import write_evaluation

from quee.errors import UsageError
from quee.work.io import read_json, write_json
from tasks.verbs.closing import bundle_of, closing_lines, results_page

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
    assert len(lines) == 5
    assert lines[0] == (
        "digits: quee_plan is right on 90.0 % of the test images, 7.5 points below the float network (97.5 %), for 20 % of the "
        "8-bit network's computation. It has no point within one point of the float network."
    )
    assert lines[1] == "numbers: at budget 0.2: accuracy 90.0 %, cost 0.2"
    assert lines[2] == "report: artifacts/digits/report/report.html"
    assert lines[3].startswith("compare: quee results digits --plot")
    assert lines[4].startswith("serve: quee serve artifacts/digits/bundle")


def test_something_simpler_that_costs_less_has_a_line(project: Path) -> None:
    metrics = project / "artifacts/digits/evaluate/metrics.json"
    found = read_json(metrics)
    found["methods"]["static_hull"]["cost_at_drop_0.5"] = 0.1
    write_json(metrics, found)
    lines = list(closing_lines(project, ["digits"]))
    assert [line.partition(":")[0] for line in lines] == ["digits", "numbers", "instead", "compare"]
    assert "fixed precisions (static_hull) 10 %, quee_plan never" in lines[2]
    assert lines[2].removeprefix("instead: ") in results_page(project, "digits")[1]


def test_what_is_not_there_is_left_out(project: Path) -> None:
    metrics = project / "artifacts/digits/evaluate/metrics.json"
    write_json(metrics, {**read_json(metrics), "fp32_accuracy": None})
    lines = list(closing_lines(project, ["digits", "absent"]))
    assert len(lines) == 3 and "float" not in lines[0] and lines[2].startswith("compare: ")
    (project / "experiments/digits.yaml").unlink()
    assert len(list(closing_lines(project, ["digits"]))) == 2, "the default policy has no results here"
    shutil.rmtree(project / "artifacts")
    assert list(closing_lines(project, ["digits"])) == []


def test_a_result_is_summed_up_by_the_settings_that_it_was_made_with(project: Path) -> None:
    made_with = project / "artifacts/digits/settings/settings.json"
    made_with.parent.mkdir()
    write_json(made_with, {"bundle": {"policy": "static_mixture", "budget": 0.3}})
    assert bundle_of(project, "digits").policy == "static_mixture"
    assert bundle_of(project, "digits", reference=True).policy == "plan", (
        "these are not the settings of published results"
    )
    write_json(made_with, {"bundle": {"policy": "plan", "of_another_version": 1}})
    assert bundle_of(project, "digits").budget == 0.25, "the YAML's"


def test_a_page_of_results_has_the_sentence_a_small_table_and_what_comes_next(project: Path) -> None:
    sentence, text = results_page(project, "digits")
    assert sentence.startswith("quee_plan is right on 90.0 % of the test images, 7.5 points below the float")
    assert sentence not in text and text.startswith("At budget 0.2: accuracy 90.0 %"), (
        "Prefect shows the sentence above it"
    )
    assert "| quee_plan (deployed) |" in text and "Near float: the least cost" in text and "Accuracies in %" in text
    assert "report `" not in text and "quee serve" not in text, "neither is there"
    assert text.endswith("compare it with `quee compare digits OTHER --html`.")
    with pytest.raises(UsageError, match="absent"):
        results_page(project, "absent")
