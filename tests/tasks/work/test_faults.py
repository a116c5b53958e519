"""Messages when something breaks, and the same command's result afterwards, which equals an undisturbed one."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_project import Project

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def undisturbed(project: Project) -> dict[str, str]:
    project.quee("run")
    results = project.results()
    for path in ("artifacts", ".quee", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project.root / path)
    (project.root / "dvc.lock").unlink()
    (project.root / "computed.log").unlink()
    return results


def test_a_full_disk_is_named_and_once_there_is_room_the_run_goes_on(project: Project, tmp_path: Path) -> None:
    expected = undisturbed(project)
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "-t", "tmpfs", "-o", "size=3m", "tmpfs"):
        shutil.copytree(project.root, small / "project", symlinks=True)
        there = Project(small / "project")
        for left in (0, 4096, 16384, 65536):  # bytes: it fills up in one place or another
            free = os.statvfs(small)
            (small / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left)))
            output = there.do("quee", "run", status=None)
            if "targets@toy         ran" not in output:
                assert "No space left on device" in output
            assert "Traceback" not in output
            (small / "filler").unlink()
        there.quee("run")
        assert there.results() == expected


def test_a_damaged_file_of_dvcs_cache_is_not_restored(project: Project) -> None:
    project.quee("run")
    before = project.results()
    for file in (project.root / ".dvc/cache/files").rglob("*"):
        if file.is_file() and b"parts" in file.read_bytes():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes().replace(b"2", b"7"))
            file.chmod(0o444)
    shutil.rmtree(project.root / "artifacts/toy/targets")
    output = project.quee("run")
    assert "targets@toy: DVC's cache was damaged (.dvc/cache/files/md5/" in output
    assert "targets@toy                          ran" in output
    assert project.results() == before
    shutil.rmtree(project.root / "artifacts/toy/targets")
    assert "targets@toy                          restored" in project.quee("run")
    assert project.results() == before


def test_a_read_only_folder_of_results_is_named(project: Project) -> None:
    expected = undisturbed(project)
    folder = project.root / "artifacts"
    folder.mkdir()
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        output = project.quee("run", status=1)
        assert (
            "stage settings@toy failed: failed: Read-only file system: artifacts/toy (what is finished is kept"
            in output
        )
        assert "Traceback" not in output
    project.quee("run")
    assert project.results() == expected


def test_locks_left_by_dead_processes_are_no_locks(project: Project) -> None:
    project.quee("run")
    before = project.results()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (project.root / ".dvc/tmp/lock").write_text(f" {dead.pid}\n")
    for name in ("run", "toy.targets"):
        project.write(f".quee/locks/{name}.lock", "")
        project.write(f".quee/locks/{name}.json", f'{{"pid": {dead.pid}, "command": "quee run"}}')
    output = project.quee("run", "--force", "--no-wait")
    assert "busy" not in output
    assert project.results() == before
