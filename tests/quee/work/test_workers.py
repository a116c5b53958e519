"""Processes of this machine: one server forks those of all pools, with what is imported already, and none outlives its caller."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

MODULE = """
import os, sys, time
from quee.work.workers import Processes, Workers
from own.imported import BY

def told(seconds=0.0):
    time.sleep(seconds)
    return os.getpid(), os.getppid(), BY

if __name__ == "__main__":
    found = []
    for _ in range(2):
        with Processes(Workers(1)).open() as pool:
            found.append(pool.submit(told).result())
    print(*found[0], *found[1], flush=True)
    if sys.argv[1:] == ["wait"]:
        with Processes(Workers(1)).open() as pool:
            print(pool.submit(told).result()[0], flush=True)
            pool.submit(told, 600).result()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pools.py").write_text(MODULE)
    (tmp_path / "own" / "imported.py").write_text("import os\nBY = os.getpid()\n")
    return tmp_path


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "own.pools", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_pools_of_one_process_have_one_server_that_imported_its_modules_once(folder: Path) -> None:
    process = started(folder)
    out, err = process.communicate(timeout=60)
    first, server, importer, second, same, still = map(int, out.split())
    assert err == ""
    assert first != second and server == same == importer == still != process.pid


def test_a_process_ends_with_its_caller_however_that_ends(folder: Path) -> None:
    process = started(folder, "wait")
    assert process.stdout is not None
    process.stdout.readline()
    worker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    end = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the worker outlived its caller"
        time.sleep(0.05)
    process.wait()
