"""The journal answers questions without reading other records."""

import json
from pathlib import Path

import pytest

from quee.work.keys import LIBRARIES, versions
from tasks.work import journal


def write(root: Path, experiment: str, stage: str, start: float, status: str = "done") -> None:
    record = {**journal.begin(experiment, stage, None), "start": start}
    journal.finish(root / journal.JOURNAL, record, status)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for start, stage in enumerate(("exits", "targets", "exits")):
        write(tmp_path, "toy", stage, 1e9 + start)
    write(tmp_path, "toy", "exits", 1e9 + 10, "failed")
    write(tmp_path, "toy_exits", "targets", 1e9 + 20)
    return tmp_path


def starts(found: dict[tuple[str, str], dict[str, object]]) -> dict[tuple[str, str], object]:
    return {key: record["start"] for key, record in found.items()}


def test_the_latest_execution_of_each_stage_is_found(root: Path) -> None:
    wanted = [("toy", "exits"), ("toy", "targets"), ("toy", "features")]
    assert starts(journal.latest(root, wanted)) == {("toy", "exits"): 1e9 + 10, ("toy", "targets"): 1e9 + 1}
    assert starts(journal.latest(root, wanted, status="done"))["toy", "exits"] == 1e9 + 2
    assert journal.last(root, "toy", "exits", since=1e9 + 11) is None
    assert [record["start"] - 1e9 for record in journal.records(root)] == [20, 10, 2, 1, 0]


def test_a_thousand_other_records_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        (root / journal.JOURNAL / f"20010909T0200{number:06d}-other-exits-1.json").write_text("{}")
    read = []
    monkeypatch.setattr(journal, "_read", lambda file: read.append(file) or json.loads(file.read_text()))
    journal.latest(root, [("toy", "exits"), ("toy", "targets")], status="done")
    assert len(read) == 3


def test_what_is_no_record_is_passed_over(root: Path) -> None:
    for name, text in (("20300101T000000.0-toy-exits-1.json", "{"), ("notes.json", "[]"), ("x-toy-exits-1.json", "[]")):
        (root / journal.JOURNAL / name).write_text(text)
    assert starts(journal.latest(root, [("toy", "exits")])) == {("toy", "exits"): 1e9 + 10}


def test_a_record_has_the_versions_of_all_that_computes(root: Path) -> None:
    recorded = next(journal.records(root))["versions"]
    assert versions(LIBRARIES).items() <= recorded.items()
    assert recorded["python"]
