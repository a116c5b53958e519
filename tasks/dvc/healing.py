"""Repair of what a killed run leaves behind.

DVC writes `dvc.lock` and `.dvc/tmp/rwlock` in place. A kill can cut off either file, and DVC then refuses every command.
DVC also fails on an empty folder in `.dvc/cache/runs`.

A `dvc.lock` that can be read is never changed, unless a marker shows that a run died while DVC may have been writing it.
A `dvc.lock` that cannot be read is replaced by the last good copy and kept aside.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from quee.errors import BusyError, IntegrityError
from quee.work.io import write_bytes
from tasks.dvc.lock import ABLATIONS, LOADER

LAST_GOOD = Path(".quee") / "last-good" / "dvc.lock"
MARKER = Path(".quee") / "last-good" / "under-way.json"
"""Exists while DVC runs a stage for quee. A run that was killed leaves it behind."""

CONFLICT = re.compile(rb"^(<<<<<<<|=======|>>>>>>>)", re.MULTILINE)
DIGEST = re.compile(r"^[0-9a-f]{32}(\.dir)?$")
ENTRY = re.compile(r"^[0-9a-f]{64}$")
"""Name of an entry of DVC's run cache."""


def heal(root: Path, notify: Callable[[str], None]) -> None:
    """Repair what killed runs left. The caller holds the checkout's lock. Raises BusyError while DVC is at work."""
    _heal_rwlock(root, notify)
    _heal_lock(root, (root / MARKER).exists(), notify)
    _heal_run_cache(root)
    _drop_damaged(root / ABLATIONS, notify)
    keep_last_good(root)
    (root / MARKER).unlink(missing_ok=True)


@contextmanager
def under_way(root: Path, stage: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Mark that DVC runs a stage. The end of the block repairs the lock where DVC alone was killed."""
    marker = root / MARKER
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(marker, json.dumps({"pid": os.getpid(), "stage": stage}).encode())
    try:
        yield
    finally:
        _heal_lock(root, True, notify)
        marker.unlink(missing_ok=True)


def keep_last_good(root: Path) -> None:
    """Copy `dvc.lock` if it is whole. The caller makes sure that DVC is not writing it."""
    try:
        content = (root / "dvc.lock").read_bytes()
    except OSError:
        return
    copy = root / LAST_GOOD
    if whole(content) and (not copy.is_file() or copy.read_bytes() != content):
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(copy, content)


def whole(content: bytes) -> bool:
    """Whether the bytes are a whole `dvc.lock`."""
    if not content.endswith(b"\n"):
        return False
    try:
        stages = yaml.load(content, Loader=LOADER)["stages"]
        entries = [entry for stage in stages.values() for entry in (*stage.get("deps", []), *stage["outs"])]
        return all(DIGEST.match(str(entry["md5"])) for entry in entries)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False


def _heal_lock(root: Path, died: bool, notify: Callable[[str], None]) -> None:
    """Restore a lock that cannot be read or, after a run `died`, a lock that was cut off between two entries.

    Raises IntegrityError on a lock with merge conflicts, which its author has to resolve.
    """
    lock, copy = root / "dvc.lock", root / LAST_GOOD
    if not lock.exists():
        return
    content = lock.read_bytes()
    good = copy.read_bytes() if copy.is_file() else committed(root) or b""
    cut_off = died and len(content) < len(good) and good.startswith(content) and whole(good)
    if whole(content) and not cut_off:
        return
    if CONFLICT.search(content):
        raise IntegrityError("dvc.lock has the conflicts of a merge: resolve them, or `git checkout HEAD -- dvc.lock`")
    state = "empty" if not content.strip() else "damaged"
    copy.parent.mkdir(parents=True, exist_ok=True)
    kept = copy.with_name("dvc.lock.damaged")
    write_bytes(kept, content)
    if whole(good):
        write_bytes(lock, good)
        how = "a run was killed while writing it" if died else f"as it was: {kept.relative_to(root)}"
        notify(f"dvc.lock was {state} ({how}): restored from the last good copy")
    else:
        lock.unlink()
        notify(f"dvc.lock was {state} and there is no good copy: taken away; stages are restored from the run cache")


def _drop_damaged(lock: Path, notify: Callable[[str], None]) -> None:
    """Remove a damaged lock file of the ablations. The run cache and the kept points restore what it recorded."""
    if lock.is_file() and not whole(lock.read_bytes()):
        lock.unlink()
        notify(f"{lock.parent.name}/{lock.name} was damaged (a run was killed while writing it): removed")


def committed(root: Path) -> bytes | None:
    """`dvc.lock` as the last commit has it."""
    done = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _heal_rwlock(root: Path, notify: Callable[[str], None]) -> None:
    file = root / ".dvc" / "tmp" / "rwlock"
    try:
        content = file.read_bytes()
    except OSError:
        return
    holders = _holders(content)
    if holders == []:
        return
    if alive := _at_work(root, holders, file.stat().st_mtime):
        raise BusyError(f"DVC is at work here: process {alive}; try again when it has ended")
    file.unlink(missing_ok=True)
    state = "damaged" if holders is None else "left by a killed run"
    notify(f".dvc/tmp/rwlock was {state}: removed")


def _heal_run_cache(root: Path) -> None:
    """Remove half-written files and empty folders, on which DVC fails."""
    for folder in (root / ".dvc" / "cache" / "runs").glob("*/*"):
        for file in folder.iterdir():
            if not ENTRY.match(file.name) or not file.stat().st_size:
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _holders(content: bytes) -> list[int] | None:
    """Process ids that a rwlock names; None when it cannot be read."""
    try:
        lock: dict[str, Any] = json.loads(content)
        writers = list(lock.get("write", {}).values())
        readers = [reader for readers in lock.get("read", {}).values() for reader in readers]
        return sorted({int(holder["pid"]) for holder in (*writers, *readers)})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _at_work(root: Path, holders: list[int] | None, written: float) -> int | None:
    """A live process that holds the rwlock: one it names, or, where it cannot be read, any DVC in this checkout."""
    import psutil

    if holders is None:
        holders = [process.pid for process in psutil.process_iter() if _is_dvc(process, root)]
    for pid in holders:
        try:
            process = psutil.Process(pid)
            # a process younger than the lock has a dead one's number
            if process.create_time() <= written + 1 and process.status() != psutil.STATUS_ZOMBIE:
                return pid
        except psutil.Error:
            continue
    return None


def _is_dvc(process: Any, root: Path) -> bool:
    import psutil

    try:
        arguments = process.cmdline()
        names = {Path(argument).name for argument in arguments[:3]}
        return bool(names & {"dvc", "tasks.dvc.child"}) and Path(process.cwd()) == root.resolve()
    except (psutil.Error, OSError):
        return False
