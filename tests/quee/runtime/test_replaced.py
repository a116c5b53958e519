"""A bundle that a pipeline replaces: its readers wait for the new one, and say so."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quee.errors import BusyError, IntegrityError
from quee.runtime import load_bundle, replaced
from quee.runtime.bundle import read_bundle
from quee.runtime.replaced import read_settled, writer


def lock(project: Path, folder: Path, pid: int) -> None:
    (project / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    held = {"write": {str(folder): {"pid": pid, "cmd": "dvc repro"}}, "read": {}}
    (project / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held))


def dead() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle in a DVC project."""
    shutil.copytree(bundle, tmp_path / "artifacts" / "x" / "bundle")
    (tmp_path / ".dvc").mkdir()
    return tmp_path / "artifacts" / "x" / "bundle"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced, "WAIT", 0.2)
    monkeypatch.setattr(replaced, "EVERY", 0.02)


def test_a_reader_waits_for_the_new_bundle_and_says_so(
    copy: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replaced, "EVERY", 0.02)
    lock(tmp_path, copy, os.getpid())
    shutil.rmtree(copy)
    told = threading.Event()
    monkeypatch.setattr(replaced.time, "sleep", lambda _: told.set())

    def replace() -> None:
        told.wait(60)
        copy.mkdir()
        for file in sorted(bundle.iterdir()):  # one by one, as DVC restores a result
            shutil.copy(file, copy)
        (tmp_path / ".dvc" / "tmp" / "rwlock").write_text('{"read": {}}')

    at_work = threading.Thread(target=replace)
    at_work.start()
    found = read_bundle(copy)
    at_work.join()
    assert found.digest == read_bundle(bundle).digest
    assert [record.message for record in caplog.records] == [
        f"{copy} is being replaced by process {os.getpid()}: waiting for the new bundle"
    ]


def test_a_bundle_that_stays_away_is_told_with_the_process(copy: Path, tmp_path: Path, soon: None) -> None:
    lock(tmp_path, copy, os.getpid())
    shutil.rmtree(copy)
    with pytest.raises(BusyError, match=f"still being replaced by process {os.getpid()}: try again"):
        load_bundle(copy)


@pytest.mark.parametrize("fault", ["no lock", "of another path", "dead", "damaged", "another form"])
def test_without_a_live_writer_the_reason_comes_at_once(copy: Path, tmp_path: Path, fault: str) -> None:
    if fault != "no lock":
        path = copy.parent / "other" if fault == "of another path" else copy
        lock(tmp_path, path, dead() if fault == "dead" else os.getpid())
    written = {"damaged": "{", "another form": '{"write": []}'}
    if fault in written:
        (tmp_path / ".dvc" / "tmp" / "rwlock").write_text(written[fault])
    assert writer(copy) is None
    shutil.rmtree(copy)
    start = time.monotonic()
    with pytest.raises(IntegrityError, match="no bundle at"):
        read_bundle(copy)
    assert time.monotonic() - start < replaced.WAIT / 4


def test_a_bundle_that_is_whole_is_read_while_a_writer_begins(copy: Path, tmp_path: Path) -> None:
    lock(tmp_path, copy, os.getpid())
    assert read_bundle(copy).manifest.experiment


def test_a_bundle_that_changes_under_a_reader_is_read_again(tmp_path: Path, soon: None) -> None:
    (tmp_path / "bundle.json").write_text("1")
    tries = iter(range(5))

    def read() -> str:
        if next(tries) == 0:
            (tmp_path / "bundle.json").write_text("22")
            raise IntegrityError("half old, half new")
        return (tmp_path / "bundle.json").read_text()

    assert read_settled(tmp_path, "bundle.json", read) == "22"


def test_a_graph_replaced_since_loading_is_not_executed(copy: Path) -> None:
    pytest.importorskip("onnxruntime")
    classifier = load_bundle(copy, "onnxruntime", held=False)
    for graph in copy.glob("*.segment1.onnx"):
        graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match="was replaced since the bundle was loaded: load the bundle anew"):
        classifier.warm(1)
    for graph in copy.glob("*.segment1.onnx"):
        graph.unlink()
    with pytest.raises(IntegrityError, match="was replaced since the bundle was loaded"):
        classifier.warm(1)
