"""The differences of a checkout from its commit, on the toy project with real git."""

import pytest
from toy_project import Project

from tasks.work import differences


def test_differences_have_a_limit_and_are_none_when_all_is_committed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differences.snapshot(project.root) is None  # no commit yet
    head = project.commit()
    clean = differences.snapshot(project.root)
    assert clean == differences.Snapshot(head, "none")
    project.write("new.bin", "x" * 2000)
    kept = differences.snapshot(project.root)
    assert kept
    assert b"new.bin" in (differences.read_patch(project.root, kept.patch) or b"")
    assert "new.bin" in project.do("git", "status", "--porcelain")  # the index is as it was
    monkeypatch.setattr(differences, "LIMIT", 1000)
    large = differences.snapshot(project.root)
    assert large
    assert large.patch == "not kept: 2,000 bytes, more than 1,000"
