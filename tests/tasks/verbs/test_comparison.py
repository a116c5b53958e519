"""The page of two results from their files: on the images that both have, and without what one of them lacks."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_project import ROOT, tiny_in

from quee.errors import UsageError
from quee.report.comparison import Comparison
from tasks.dvc.lock import ExperimentResult, StageResult, dvc_digest, stage_names
from tasks.mlflow.compare import Side
from tasks.resolved import settings_file
from tasks.verbs.comparison import FOLDER, verdict, write_page

STAGES = [stage for stage in stage_names(ROOT) if stage not in ("report", "bundle")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Results `before` of the tiny experiment, and `after` of one with another policy, division and hidden images."""
    root = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patched:
        tiny = tiny_in(root, patched)
        changed = {"prepare": {"seed": 1}, "bundle": {"policy": "confidence_hull"}, "report": {"images": False}}
        for name, blocks in (("before", {}), ("after", changed)):
            tiny.write(**blocks)
            tiny.run("settings", *STAGES).rename(root / "artifacts" / name)
        yield root


def side(root: Path, name: str) -> Side:
    """The result in `artifacts/NAME` as `dvc.lock` would record it."""
    settings = json.loads((root / "artifacts" / name / "settings" / "settings.json").read_text())
    stages = {}
    for stage in STAGES:
        folder = f"artifacts/{name}/{stage}"
        entry = {
            "outs": [{"path": folder, "md5": dvc_digest(root / folder)}],
            "params": {settings_file(name): settings},
        }
        stages[stage] = StageResult(name, stage, entry)
    flat = {"bundle.policy": settings["bundle"]["policy"]}
    return Side(name, flat, {}, result=ExperimentResult(name, stages), here=True)


def compared(root: Path, first: Side, second: Side, file: Path | None = None) -> tuple[Comparison, str]:
    found, page = write_page(root, first, second, file)
    return found, page.read_text()


def test_a_result_and_itself_under_another_policy_are_compared_on_all_images(project: Path) -> None:
    before, after = side(project, "before"), side(project, "before")
    assert after.result is not None
    stages = dict(after.result.stages)
    for name, stage in stages.items():
        (params,) = stage.entry["params"].values()
        blocks = {**params, "bundle": {**params["bundle"], "policy": "static_mixture"}}
        stages[name] = replace(stage, entry={**stage.entry, "params": {settings_file("before"): blocks}})
    after = replace(after, label="fixed", result=ExperimentResult("before", stages))
    found, text = compared(project, before, after, project / "own.html")
    assert found.same_images is True and found.left_out == []
    shared = found.shared
    assert shared is not None and shared.tested == (shared.images, shared.images)
    auc = [one.summary.metrics["methods"][one.summary.method]["auc"] for one in found.sides]
    assert shared.overall["mean"] == pytest.approx(auc[1] - auc[0]), "there is one seed and no fold"
    assert sum(kind.images for kind in shared.kinds) == shared.moved == sum(row["images"] for row in shared.paths) > 0
    assert all(len(kind.examples) == min(kind.images, 8) for kind in shared.kinds)
    assert text.count("<img") == sum(len(kind.examples) for kind in shared.kinds)
    assert text == compared(project, before, after)[1], "the same bytes twice"


def test_a_result_and_itself_are_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="before and before are the same result"):
        compared(project, side(project, "before"), side(project, "before"))
    assert not (project / FOLDER / "before-before.html").exists()


def test_the_verdict_alone_is_the_sentence_by_what_was_reported(project: Path) -> None:
    said = verdict(project, side(project, "before"), side(project, "after"))
    assert len(said) == 1 and "averaged over budgets, on different test images" in said[0]
    assert verdict(project, replace(side(project, "before"), result=None), side(project, "after")) == []


def test_other_divisions_are_compared_on_the_images_that_both_tested_and_hidden_images_stay_hidden(
    project: Path,
) -> None:
    found, text = compared(project, side(project, "before"), side(project, "after"))
    assert found.same_images is False and found.shared is not None
    assert 0 < found.shared.images < min(found.shared.tested)
    assert "The test sets differ" in text and "<img" not in text
    assert found.left_out == ["Example images: after does not show them (`report.images: false`)."]
    assert (project / FOLDER / "before-after.html").is_file()


def test_without_the_cache_the_curves_stay_and_the_reason_is_said(project: Path) -> None:
    hidden = project / "artifacts" / "after" / "features"
    after, aside = side(project, "after"), project / "hidden"
    hidden.rename(aside)
    hidden.mkdir()
    (hidden / "tree.json").write_text((aside / "tree.json").read_text())
    try:
        found, text = compared(project, side(project, "before"), after)
    finally:
        (hidden / "tree.json").unlink()
        hidden.rmdir()
        aside.rename(hidden)
    assert found.shared is None and 'id="classes"' not in text
    (reason,) = found.left_out
    assert "after: the answers to single images (stage features) are not part of the result here" in reason
    assert text.count("<polyline") == 2


def test_other_data_are_told_apart(project: Path) -> None:
    file = project / "artifacts" / "after" / "prepare" / "dataset.json"
    kept = file.read_text()
    file.write_text(kept.replace('"patches"', '"others"'))
    try:
        found, text = compared(project, side(project, "before"), side(project, "after"))
    finally:
        file.write_text(kept)
    assert not found.comparable and found.shared is None and "of different data" in text


def test_the_run_of_a_stage_and_a_missing_folder_are_refused(project: Path) -> None:
    before = side(project, "before")
    with pytest.raises(UsageError, match="the run of a stage"):
        write_page(project, before, replace(before, label="x", result=None), None)
    with pytest.raises(UsageError, match="there is no folder"):
        write_page(project, before, side(project, "after"), project / "none" / "page.html")
