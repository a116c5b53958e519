"""Processes of this machine: one server forks those of all pools, with what is imported already, and none outlives its caller."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

MODULE = """
import os, sys, time
from quee.work.workers import Processes, Workers

IMPORTED_BY = os.getpid()

def told(seconds=0.0):
    time.sleep(seconds)
    return os.getpid(), os.getppid(), sys.modules["pools"].IMPORTED_BY

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
    (tmp_path / "pools.py").write_text(MODULE)
    return tmp_path


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pools", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )


def test_pools_of_one_process_have_one_server_that_imported_its_module_once(folder: Path) -> None:
    process = started(folder)
    first, server, importer, second, same, still = map(int, process.communicate(timeout=60)[0].split())
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
