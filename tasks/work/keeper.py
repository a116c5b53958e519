"""Keeps a command and everything that it starts: run as a script, `python keeper.py FD SIGNAL SECONDS COMMAND…`.

The keeper runs between a verb and the command of another tool (MLflow's or Prefect's server, a flow), in a session of its
own. FD is the reading end of a pipe; only the verb has the writing end, so the pipe closes when the verb ends in any way.
The keeper then sends SIGNAL to the command and its group, waits at most SECONDS, and kills the rest, including processes
that moved to another group or lost their parent. It does the same when the command itself ends. It imports only the
standard library, so it starts in a few hundredths of a second.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
END_SECONDS = 10.0


def keep(fd: int, number: int, seconds: float, command: list[str]) -> int:
    """Run the command until it ends or the pipe closes; returns its exit status, or 128 + the signal that ended it."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans among the descendants become this process's children
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    for name in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: None)  # a function, not SIG_IGN, which the command would inherit
    process = subprocess.Popen(command, close_fds=True)
    status = process.poll()
    while status is None and fd not in select.select([fd, woken], [], [], None)[0]:
        wanted = set(os.read(woken, 4096)) - {signal.SIGCHLD}
        status = process.poll()
        if wanted:
            break
    if status is None:
        os.killpg(0, number)
        status = _wait(process, seconds)
    end_all()
    return 128 - status if status < 0 else status


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def end_all() -> None:
    """Kill every descendant of this process until none is left, for at most some seconds."""
    limit = time.monotonic() + END_SECONDS
    while (found := descendants(os.getpid())) and time.monotonic() < limit:
        for pid in found:
            _kill(pid)
        _reap(found)
        time.sleep(0.01)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """Ids of a process's descendants, zombies included; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(file.parent.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tasks.work.keeper", description="Keep a command: see this file's head."
    )
    for place, kind in (("fd", int), ("signal", int), ("seconds", float)):
        parser.add_argument(place, type=kind)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not given.command:
        parser.error("no command")
    sys.exit(keep(given.fd, given.signal, given.seconds, given.command))
