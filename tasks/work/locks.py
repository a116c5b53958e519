"""File locks: one writer per stage of an experiment, one run per checkout. A kill releases them."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from quee.errors import BusyError

LOCKS = Path(".quee") / "locks"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def exclusive(
    name: str, what: str, *, root: Path = Path(), wait: bool = True, notify: Callable[[str], None] = say
) -> Iterator[None]:
    """Hold the lock `name`. With `wait`, wait until it is free and say once who has it; else raise BusyError with the holder."""
    folder = root / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    holder = folder / f"{name}.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        message = f"{what} is busy: held by {_holder(holder)}"
        if not wait:
            raise BusyError(message) from None
        notify(f"{message}; waiting for it to end")
        lock.acquire()
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "command": _command()}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _command() -> str:
    return " ".join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])[:200]


def _holder(file: Path) -> str:
    try:
        record = json.loads(file.read_text())
        return f"process {record['pid']} ({record['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
