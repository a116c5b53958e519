"""A logged process: its output in the log as it was, and line by line to whoever shows it."""

import os
import sys
from pathlib import Path

from tasks.dvc.process import run_logged

CODE = (
    "import sys; print('first'); sys.stdout.flush(); print('second\\r\\nthird', file=sys.stderr); "
    "print('last', end=''); sys.exit(3)"
)


def test_output_is_logged_and_shown_line_by_line(tmp_path: Path) -> None:
    log, lines = tmp_path / "logs" / "a.log", []
    status = run_logged([sys.executable, "-c", CODE], log, tmp_path, dict(os.environ), lines.append)
    assert status == 3
    assert sorted(lines) == ["first", "last", "second", "third"]
    assert lines[0] == "first" and lines[-1] == "last"
    assert log.read_bytes().replace(b"\r", b"").split() == [line.encode() for line in lines]


def test_output_that_nobody_shows_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert run_logged([sys.executable, "-c", CODE], log, tmp_path, dict(os.environ), None) == 3
    assert b"third" in log.read_bytes()
