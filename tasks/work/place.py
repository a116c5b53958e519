"""A project's verbs run only in its folder, where the files are that they read and write."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quee.errors import BusyError, QueeError, UsageError

FILES = ("params.yaml", "dvc.yaml")
"""Files that every project has in its folder."""


def project_root() -> Path:
    """The current folder; raises UsageError naming the missing files where it is no project's folder."""
    root = Path.cwd()
    missing = [name for name in FILES if not (root / name).is_file()]
    if not missing:
        return root
    above = next((place for place in root.parents if all((place / name).is_file() for name in FILES)), None)
    where = f", {above}" if above else "; `quee start IMAGES` or `quee init` makes a project in an empty one"
    raise UsageError(f"no {' and no '.join(missing)} in {root}: run this in the project's folder{where}")


def end_elsewhere() -> None:
    """End the process with one line where the current folder is no project's folder."""
    with ending():
        project_root()


@contextmanager
def ending() -> Iterator[None]:
    """End the process with one line and its exit status where the block raises a QueeError."""
    try:
        yield
    except QueeError as error:
        print(f"quee: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def refuse_taken(port: int, advice: str) -> None:
    """Raises BusyError where another process listens on this port of the loopback interface, UsageError where it is none."""
    if not 1 <= port <= 65535:
        raise UsageError(f"port {port}: give 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BusyError(f"port {port} is not free ({error.strerror}); {advice}") from None
