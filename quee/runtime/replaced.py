"""Reading a bundle while a pipeline replaces it.

DVC removes the result of a stage before it runs the stage, and restores files one by one. Meanwhile it notes the path and
the process that writes there in `.dvc/tmp/rwlock` of the project.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from quee.errors import BusyError, IntegrityError
from quee.runtime.links import project_of

WAIT = 120.0
"""Seconds for which a reader waits for a bundle that is being replaced."""
EVERY = 0.25
"""Seconds between two tries."""
LOG = logging.getLogger(__name__)
T = TypeVar("T")


def read_settled(folder: Path, description: str, read: Callable[[], T]) -> T:
    """The result of reading a bundle's folder; where that fails while the bundle is replaced, it is tried until it succeeds.

    Args:
        folder: The bundle's.
        description: Name of the file that describes it and changes with every bundle.
        read: Reads the bundle; raises IntegrityError or FileNotFoundError where it is not whole.

    Raises:
        BusyError: that names the process, where the bundle is not there after `WAIT` seconds.
        IntegrityError, FileNotFoundError: as `read` does, where nothing replaces the bundle.
    """
    until, told = time.monotonic() + WAIT, False
    while True:
        before, at_work = stamp(folder / description), writer(folder)
        try:
            return read()
        except (IntegrityError, FileNotFoundError):
            at_work = at_work or writer(folder)
            if at_work is None and stamp(folder / description) == before:
                raise
        if time.monotonic() > until:
            raise BusyError(f"{folder} is still being replaced by process {at_work}: try again when that has ended")
        if at_work is not None and not told:
            LOG.warning("%s is being replaced by process %d: waiting for the new bundle", folder, at_work)
            told = True
        time.sleep(EVERY)


def writer(folder: Path) -> int | None:
    """Id of the live process that replaces a folder, as DVC notes it; None where there is none, or no DVC project."""
    project = project_of(folder)
    try:
        writers = json.loads((project / "tmp" / "rwlock").read_bytes())["write"] if project else {}
        found = [int(holder["pid"]) for place, holder in writers.items() if Path(place).resolve() == folder.resolve()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return next(filter(_lives, found), None)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def stamp(path: Path) -> tuple[int, int] | None:
    """What differs where a file was replaced: its size and time; None where it is not there.

    Not its inode: DVC replaces a file by a link to the same content in its cache.
    """
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
