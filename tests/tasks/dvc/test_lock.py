"""The files of a result: from the working tree, from DVC's cache, or published."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated_project import call, copied, repro

from quee.errors import IntegrityError, UsageError
from tasks.dvc.lock import ExperimentResult, out_folder, read_lock
from tasks.mlflow.compare import side
from tasks.work.published import archive_of, pack


@pytest.fixture
def project(evaluated_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(evaluated_template, tmp_path / "project", monkeypatch)


def test_a_result_of_a_revision_is_a_folder_of_links_into_the_cache(project: Path, tmp_path: Path) -> None:
    before = (project / "artifacts/digits/evaluate/metrics.json").read_bytes()
    repro(project, accuracy=0.7, auc=0.8)
    now, then = (read_lock(project, revision)["digits"].stages["evaluate"] for revision in (None, "HEAD"))
    (tmp_path / "aside").mkdir()
    found = out_folder(project, then, False, tmp_path / "aside")
    assert found is not None and (found / "metrics.json").read_bytes() == before
    here = out_folder(project, now, True, tmp_path / "unused")
    assert here == project / "artifacts/digits/evaluate"
    assert (here / "metrics.json").read_bytes() != before


def test_a_result_that_is_nowhere_has_no_folder(project: Path, tmp_path: Path) -> None:
    known = read_lock(project)["digits"].stages["evaluate"]
    gone = replace(known, entry={**known.entry, "outs": [{"path": known.folder, "md5": "0" * 32 + ".dir"}]})
    assert out_folder(project, gone, False, tmp_path) is None
    shutil.rmtree(project / known.folder)
    assert out_folder(project, known, True, tmp_path) is None


def test_a_published_experiment_is_compared_by_its_name(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"with results \(digits\), MLflow run id"):
        side(project, "other", "digits")
    aside = tmp_path / "other"
    shutil.copytree(project / "artifacts/digits/evaluate", aside / "evaluate")
    (aside / "dvc.lock").write_text((project / "dvc.lock").read_text().replace("digits", "other"))
    pack(aside, archive_of(project, "other"))
    found = side(project, "other", "digits")
    assert found.label == "other" and not found.here
    assert found.metrics == side(project, "digits", "other").metrics != {}
    assert "The metrics are equal." in call("compare", "digits", "other").stdout
    with pytest.raises(UsageError, match="published: other"):
        side(project, "third", "digits")


def test_a_lock_without_the_experiment_is_refused() -> None:
    for text in ("", "stages: {evaluate@other: {}}", "- x", "stages: ["):
        with pytest.raises(IntegrityError, match="has no entries of it"):
            ExperimentResult.read("digits", text, ["evaluate"])


def test_a_file_without_html_is_refused(project: Path) -> None:
    error = call("compare", "digits", "HEAD", "page.html").exception
    assert isinstance(error, UsageError) and "give --html, too" in str(error)
