"""Processes that end with the process that started them, so a verb leaves none behind, in whatever way it ends.

Our own modules call `die_with_parent`, so that killing DVC alone leaves no second writer. `keep` starts commands of other
tools, which start processes of their own.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
POLL_SECONDS = 0.5
SUPERVISED = "QUEE_SUPERVISED"
"""Environment variable that is set for the processes of a run."""

KEEPER = Path(__file__).with_name("keeper.py")
GRACE_SECONDS = 15.0


class Kept:
    """A running command of another tool; nothing that it starts outlives this process."""

    def __init__(self, process: "subprocess.Popen[bytes]", pipe: int) -> None:
        self.process, self._pipe = process, pipe

    def end(self) -> int:
        """End the command and all processes it started; returns its exit status."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        return self.process.wait()


def keep(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    by: signal.Signals = signal.SIGTERM,
    output: Any = None,
) -> Kept:
    """Start a command under a keeper (tasks/work/keeper.py).

    When `Kept.end` is called or this process ends, the command gets the signal `by` and has GRACE_SECONDS to end.
    `output` is a file for what it prints; the default is this process's own streams.
    """
    reader, writer = os.pipe()
    keeper = [sys.executable, "-I", str(KEEPER), str(reader), str(int(by)), str(GRACE_SECONDS)]
    errors = None if output is None else subprocess.STDOUT
    try:
        process = subprocess.Popen(
            [*keeper, *command], env=environment, pass_fds=[reader], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
        )  # fmt: skip
    finally:
        os.close(reader)
    return Kept(process, writer)


def run_kept(command: list[str], environment: Mapping[str, str], by: signal.Signals = signal.SIGINT) -> int:
    """Run a command under a keeper to its end; returns its exit status. Ctrl-C and SIGTERM end it with this process."""
    end_in_order()
    kept = keep(command, environment, by=by)
    try:
        return kept.process.wait()
    except KeyboardInterrupt:
        return kept.end()
    finally:
        kept.end()


def end_in_order() -> None:
    """Make SIGTERM end this process through `sys.exit`, so that `finally` blocks clean up and end their processes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def die_with_make() -> None:
    """Have this process killed with its parent where `make` has set SUPERVISED."""
    if SUPERVISED in os.environ:
        die_with_parent()


def die_with_parent(always: bool = False) -> None:
    """Have this process killed when its parent dies: at once on Linux, within a second elsewhere.

    A shell between DVC and this process counts as DVC. A process that a user starts under `nohup` survives; one that DVC
    or `quee run` started does not, nor one with `always`, such as a stage's worker.
    """
    watched = _lineage()
    supervised = always or "DVC_STAGE" in os.environ or SUPERVISED in os.environ
    if not watched or (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and not supervised):
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The thread also sees a parent that died before the call above, and a shell's parent.
    threading.Thread(target=_poll, args=(watched,), name="lifeline", daemon=True).start()


def _poll(watched: list[int]) -> None:
    while _lineage() == watched:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _lineage() -> list[int]:
    """The parent and, above shells that run one command, the next parents; without PID 1."""
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
