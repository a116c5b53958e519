"""DVC as a process: calls, their messages, and their output as it comes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quee.work.progress import EVERY
from tasks.work.lifeline import SUPERVISED
from tasks.work.words import last_words

BUSY, AWAY = 5, os.EX_TEMPFAIL
"""Exit statuses of tasks/dvc/child.py: another DVC is at work; storage does not answer."""

GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Said:
    """The result of a call of DVC."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """DVC's error messages."""
        return last_words(self.err) or last_words(self.out) or f"DVC ended with status {self.status} without a word"

    @property
    def may_pass(self) -> bool:
        """Whether a later try may succeed: storage did not answer, or another DVC was at work."""
        return self.status in (AWAY, BUSY)


def run_dvc(root: Path, *arguments: str) -> Said:
    """Call DVC and wait for its end; without --quiet, which also silences errors."""
    done = subprocess.run(
        dvc_command(*arguments), cwd=root, env=environment(), capture_output=True, encoding="utf-8",
        errors="replace", stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


def dvc_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tasks.dvc.child", *arguments]


def environment() -> dict[str, str]:
    """Environment for processes of a run: this Python first on PATH, quiet, and ending with this process."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    code = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": code, "DVC_NO_ANALYTICS": "1", SUPERVISED: "1"}


def run_logged(
    command: list[str], log: Path, root: Path, environment: dict[str, str], show: Callable[[str], None] | None
) -> int:
    """Run a command to its end and return its status; its output goes to the log, and line by line to `show`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    often = {EVERY: "1"} if show and sys.stderr.isatty() else {}
    process = subprocess.Popen(
        command, cwd=root, env={**environment, **often}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
    )  # fmt: skip
    assert process.stdout is not None
    begun = b""
    try:
        with log.open("wb") as file:
            while chunk := process.stdout.read(1 << 16):
                file.write(chunk)
                file.flush()
                *lines, begun = re.split(rb"[\r\n]+", begun + chunk)
                if show:
                    for line in lines:
                        show(line.decode(errors="replace"))
        if show and begun:
            show(begun.decode(errors="replace"))
        return process.wait()
    except BaseException as error:  # Ctrl-C also reaches the command: give it some time to end by itself
        if not isinstance(error, KeyboardInterrupt):  # a cancellation does not reach it
            _interrupt(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(GRACE_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
        raise
    finally:
        process.stdout.close()


def _interrupt(pid: int) -> None:
    """Interrupt all processes of the command at once, like Ctrl-C."""
    import psutil

    with contextlib.suppress(psutil.Error):
        command = psutil.Process(pid)
        for process in (*command.children(recursive=True), command):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGINT)
