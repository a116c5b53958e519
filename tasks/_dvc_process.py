"""A command whose output goes to a log and, where asked, is shown as it comes. Part of tasks/dvc.py."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

GRACE_SECONDS = 10.0
ADVICE = re.compile(rb"Use `dvc push` to send your updates to remote storage\.\r?\n")


def run_logged(command: list[str], log: Path, root: Path, environment: dict[str, str], show: bool) -> int:
    """Run a command to its end and return its status; a terminal stays one for it, so that progress bars are drawn."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = show and sys.stderr.isatty()
    reader, writer = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, close_fds=True
    )
    os.close(writer)
    try:
        with log.open("wb") as file:
            while chunk := _read(reader):
                file.write(chunk)
                file.flush()
                if show:
                    sys.stderr.write(ADVICE.sub(b"", chunk).decode(errors="replace"))
                    sys.stderr.flush()
        return process.wait()
    except BaseException as error:  # Ctrl-C reaches the command too: let it end in its own way, but not for ever
        if not isinstance(error, KeyboardInterrupt):  # a cancellation does not
            _interrupt(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(GRACE_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
        raise
    finally:
        os.close(reader)


def _interrupt(pid: int) -> None:
    """As Ctrl-C does it: all processes of the command at once."""
    import psutil

    with contextlib.suppress(psutil.Error):
        command = psutil.Process(pid)
        for process in (*command.children(recursive=True), command):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGINT)


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)
    except OSError:  # how a pseudo-terminal says that the other side has closed
        return b""
