"""Published results are small, traceable to their inputs, and present in a fresh clone."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from evaluated_project import call, copied, repro, run

from quee.errors import IntegrityError, UsageError
from tasks.mlflow.compare import side
from tasks.verbs.reference import fetch, publish
from tasks.verbs.results import against
from tasks.work.published import ARCHIVES, FOLDER, archive_of, pack, published, unpack


@pytest.fixture
def project(evaluated_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(evaluated_template, tmp_path, monkeypatch)


def dvc(*arguments: str) -> None:
    run(sys.executable, "-m", "dvc", *arguments, "-q")


def test_a_result_is_published_with_what_made_it_and_a_fresh_clone_shows_it(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = tmp_path_factory.mktemp("remote")
    dvc("remote", "add", "-d", "kept", str(remote))
    subprocess.run([sys.executable, "-m", "tasks.verbs.reference", "digits"], check=True, cwd=project)
    assert published(project) == ["digits"]
    folder = project / FOLDER / "digits"
    assert (folder / "experiment.yaml").read_text() == (project / "experiments" / "digits.yaml").read_text()
    assert "evaluate@digits" in (folder / "dvc.lock").read_text()
    run("git", "add", "-A")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "published")

    clone = tmp_path_factory.mktemp("clones") / "clone"
    run("git", "clone", "-q", str(project), str(clone))
    assert published(clone) == []
    fetch(clone)
    assert published(clone) == ["digits"]
    for words in (("compare", "digits", "HEAD"), ("results", "digits")):  # as the first command
        shutil.rmtree(clone / ARCHIVES)
        shutil.rmtree(clone / FOLDER, ignore_errors=True)
        monkeypatch.chdir(clone)
        done = call(*words)
        assert (
            done.exit_code == 0 if words[0] == "compare" else "quee results --reference digits" in str(done.exception)
        )
        assert published(clone) == ["digits"]
    fetch(clone)
    assert side(clone, "digits", "HEAD").metrics["fp32_accuracy"] == 0.975, "dvc.lock names results that are not here"
    assert json.loads((clone / FOLDER / "digits/evaluate/metrics.json").read_text())["fp32_accuracy"] == 0.975


def test_reference_results_are_shown_without_a_name(project: Path) -> None:
    assert "neither reference/ nor reference.dvc" in str(call("results", "--reference").exception)
    publish(project, "digits")
    assert list(json.loads(call("results", "--reference", "--json").stdout)) == ["digits"]


def test_a_result_that_is_not_the_recorded_one_is_not_published(project: Path) -> None:
    publish(project, "digits")
    before = archive_of(project, "digits").read_bytes()
    (project / "artifacts/digits/evaluate/metrics.json").write_text("{}")
    with pytest.raises(IntegrityError, match="evaluate"):
        publish(project, "digits")
    assert archive_of(project, "digits").read_bytes() == before


def test_a_clone_compares_with_results_that_were_made_elsewhere(project: Path) -> None:
    publish(project, "digits")
    run("git", "add", "-A")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "published")
    repro(project, accuracy=0.9, auc=0.952)
    shutil.rmtree(project / ".dvc" / "cache")  # as in a clone on another machine
    changes = {change.metric: change for change in against(project, "HEAD", None)["digits"]}
    assert (changes["evaluate.methods.quee_plan.auc"].before, changes["evaluate.methods.quee_plan.auc"].after) == (
        0.95,
        0.952,
    )


def test_nothing_here_is_not_taken_for_agreement(project: Path) -> None:
    shutil.rmtree(project / "artifacts")
    with pytest.raises(UsageError, match="digits has no results here to compare"):
        against(project, "HEAD", None)


def test_an_archive_has_the_same_bytes_for_the_same_files_and_gives_them_back(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    (folder / "evaluate").mkdir(parents=True)
    (folder / "evaluate" / "metrics.json").write_text("{}")
    (folder / "dvc.lock").write_text("schema")
    pack(folder, archive_of(tmp_path, "digits"))
    before = archive_of(tmp_path, "digits").read_bytes()
    (folder / "dvc.lock").touch()
    pack(folder, archive_of(tmp_path, "digits"))
    assert archive_of(tmp_path, "digits").read_bytes() == before
    unpack(tmp_path)
    found = tmp_path / FOLDER / "digits"
    assert (found / "evaluate" / "metrics.json").read_text() == "{}"
    (found / "dvc.lock").write_text("kept while the archive is the same")
    unpack(tmp_path)
    assert (found / "dvc.lock").read_text().startswith("kept")
    (folder / "dvc.lock").write_text("another")
    pack(folder, archive_of(tmp_path, "digits"))
    unpack(tmp_path)
    assert (found / "dvc.lock").read_text() == "another"
    archive_of(tmp_path, "digits").unlink()
    unpack(tmp_path)
    assert not found.exists()


@pytest.mark.parametrize("damage", ["cut", "link", "outside", "large"])
def test_an_archive_that_is_not_whole_plain_files_is_refused(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "dvc.lock").write_text("schema")
    archive = archive_of(tmp_path, "digits")
    pack(tmp_path / "made", archive)
    if damage == "cut":
        archive.write_bytes(archive.read_bytes()[:-20])
    elif damage == "large":
        monkeypatch.setattr("tasks.work.published.MOST_UNPACKED", 100)
    else:
        with tarfile.open(archive, "w:xz") as tar:
            member = tarfile.TarInfo("../out" if damage == "outside" else "link")
            if damage == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(IntegrityError, match="digits.tar.xz"):
        unpack(tmp_path)
    assert not (tmp_path / FOLDER / "digits").exists()
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / ARCHIVES).glob("*")) == [archive]
