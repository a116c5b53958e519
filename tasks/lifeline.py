"""A process that ends when the one that started it ends, so that killing DVC alone leaves no second writer behind."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
POLL_SECONDS = 0.5
SUPERVISED = "QUEE_SUPERVISED"
"""Environment variable set for the processes of a run."""


def die_with_parent(always: bool = False) -> None:
    """Have this process killed when its parent dies, at once where the kernel can, within a second elsewhere.

    A shell between DVC and this process counts as one with DVC. A process that someone starts under `nohup` is meant to
    survive; one that DVC or `quee run` started is not, nor one for which `always` is given, such as a stage's worker.
    """
    watched = _lineage()
    supervised = always or "DVC_STAGE" in os.environ or SUPERVISED in os.environ
    if not watched or (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not supervised):
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if _lineage() != watched:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_poll, args=(watched,), name="lifeline", daemon=True).start()


def _poll(watched: list[int]) -> None:
    while _lineage() == watched:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _lineage() -> list[int]:
    """The parent and, while it is a shell that runs one command, its parent; without those that are PID 1."""
    found: list[int] = []
    parent = os.getppid()
    while parent > 1:
        found.append(parent)
        if not _runs_one_command(parent):
            break
        parent = _parent(parent)
    return found


def _runs_one_command(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    name = os.path.basename(arguments[0].decode(errors="replace"))
    return name in SHELLS and b"-c" in arguments


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
