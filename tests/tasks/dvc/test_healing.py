"""Repairs after a kill, and files that are not changed because they are the user's."""

import signal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from toy_project import Project

from quee.errors import IntegrityError
from tasks.dvc.healing import LAST_GOOD, MARKER, heal, under_way, whole


def lock_of(count: int) -> bytes:
    """A lock of so many stages; the lock of fewer stages is a byte prefix, as DVC writes it."""
    stages = {
        f"stage{number}@toy": {"cmd": "x", "outs": [{"path": f"o{number}", "md5": "a" * 32}]} for number in range(count)
    }
    return yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False).encode()


def project_with(folder: Path, lock: bytes | None, last_good: bytes | None, died: bool) -> list[str]:
    """Heal a folder with these files; returns the messages."""
    for path, content in ((folder / "dvc.lock", lock), (folder / LAST_GOOD, last_good)):
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if died:
        (folder / MARKER).parent.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text("{}")
    told: list[str] = []
    heal(folder, told.append)
    return told


@given(kept=st.integers(1, 4), known=st.integers(1, 4))
def test_a_whole_lock_is_the_users_where_no_run_died(
    tmp_path_factory: pytest.TempPathFactory, kept: int, known: int
) -> None:
    folder = tmp_path_factory.mktemp("project")
    assert project_with(folder, lock_of(kept), lock_of(known), died=False) == []
    assert (folder / "dvc.lock").read_bytes() == lock_of(kept)
    assert (folder / LAST_GOOD).read_bytes() == lock_of(kept)


@given(data=st.data(), known=st.integers(2, 4))
def test_after_a_run_that_died_a_lock_that_was_cut_off_anywhere_is_restored(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, known: int
) -> None:
    folder, good = tmp_path_factory.mktemp("project"), lock_of(known)
    cut = data.draw(st.one_of(st.integers(0, len(good) - 1), st.integers(1, known - 1).map(lambda n: len(lock_of(n)))))
    told = project_with(folder, good[:cut], good, died=True)
    assert (folder / "dvc.lock").read_bytes() == good
    assert "a run was killed while writing it" in told[0]
    assert not (folder / MARKER).exists()
    assert project_with(folder, lock_of(1), None, died=False) == [], "the marker is of one death alone"
    assert (folder / "dvc.lock").read_bytes() == lock_of(1)


@pytest.mark.parametrize("content", [b"", b"{", b"schema: '2.0'\nstages:\n", lock_of(2)[:-9]], ids=repr)
def test_a_lock_that_nobody_can_read_is_kept_aside(tmp_path: Path, content: bytes) -> None:
    told = project_with(tmp_path, content, lock_of(2), died=False)
    assert (tmp_path / "dvc.lock").read_bytes() == lock_of(2)
    assert (tmp_path / ".quee/last-good/dvc.lock.damaged").read_bytes() == content
    assert "as it was: .quee/last-good/dvc.lock.damaged" in told[0]


@pytest.mark.parametrize("died", [False, True])
def test_a_merges_conflict_is_its_authors_to_resolve(tmp_path: Path, died: bool) -> None:
    content = b"<<<<<<< HEAD\n" + lock_of(2) + b"=======\n" + lock_of(1) + b">>>>>>> branch\n"
    with pytest.raises(IntegrityError, match="dvc.lock has the conflicts of a merge"):
        project_with(tmp_path, content, lock_of(3), died)
    assert (tmp_path / "dvc.lock").read_bytes() == content


def test_where_dvc_alone_was_killed_the_run_itself_restores_the_lock(tmp_path: Path) -> None:
    project_with(tmp_path, lock_of(2), None, died=False)
    told: list[str] = []
    with under_way(tmp_path, "stage", told.append):
        assert (tmp_path / MARKER).exists()
        (tmp_path / "dvc.lock").write_bytes(lock_of(2)[:40])
    assert (tmp_path / "dvc.lock").read_bytes() == lock_of(2)
    assert told
    assert not (tmp_path / MARKER).exists()


def test_entries_that_were_discarded_stay_discarded(ran: Project) -> None:
    ran.commit()
    committed = ran.read("dvc.lock")
    ran.write("experiments/other.yaml", ran.read("experiments/toy.yaml"))
    ran.quee("run", "other")
    assert ran.read("dvc.lock").startswith(committed), "DVC appends: what is tested here"
    ran.do("git", "checkout", "--", "dvc.lock")
    said = ran.quee("plan")
    assert "restored from the last good copy" not in said
    assert ran.read("dvc.lock") == committed


@pytest.mark.slow
def test_a_killed_run_leaves_its_marker_and_the_next_one_takes_it_away(project: Project) -> None:
    run = project.start("quee", "run", TOY_SECONDS="0.5")
    while not project.computed():
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert (project.root / MARKER).exists()
    project.quee("run")
    assert not (project.root / MARKER).exists()
    assert whole(project.read("dvc.lock").encode())
