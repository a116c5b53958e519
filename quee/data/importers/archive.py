"""Members of a tar archive or files of a folder by base name, read into memory; never extracted."""

import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from quee.data.importers.report import Report, counted
from quee.data.walk import Skipped, shown, walk
from quee.errors import DamagedError, QueeError

MAX_BYTES = 512 << 20
"""Largest size of one member in bytes."""

Member = tuple[str, int, Callable[[], bytes]]
"""Name with its folders, size, and a function that reads the content."""


def read_members(source: Path, wanted: set[str], report: Report | None = None) -> dict[str, bytes]:
    """Contents of the regular files with these base names, anywhere in `source`; the report counts the other files.

    Raises QueeError when the archive is damaged, a name occurs twice or a file is too large to be read into memory.
    """
    skipped = report.skipped if report else Skipped()
    found: dict[str, bytes] = {}
    with _members(source, skipped) as members:
        for path, size, read in members:
            if (name := PurePosixPath(path).name) not in wanted:
                skipped.admits(path, ())
                continue
            if name in found:
                raise QueeError(f"{source}: {name} is in it twice")
            if size > MAX_BYTES:
                raise QueeError(f"{source}: {name} has {size:,} bytes; at most {MAX_BYTES:,} are read")
            found[name] = read()
            if len(found[name]) != size:
                raise DamagedError(f"{source}: truncated in {name}")
    return found


@contextmanager
def _members(source: Path, skipped: Skipped) -> Iterator[Iterator[Member]]:
    """The files of a folder or a tar archive; raises QueeError where reading an archive fails."""
    if source.is_dir():
        walked = walk(source)
        skipped.add(walked.skipped)
        yield ((file.name, file.size, (source / file.name).read_bytes) for file in walked.files)
        return
    try:
        with tarfile.open(source, "r:*") as archive:
            yield (
                (member.name, member.size, partial(_content, archive, member)) for member in archive if member.isfile()
            )
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        why = "none of gz, bz2, xz, tar" if "not be opened successfully" in str(error) else " ".join(str(error).split())
        raise DamagedError(f"{source}: not a whole tar archive ({why})") from None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    return opened.read() if opened else b""


def leave_others(folder: Path, used: Container[str], report: Report) -> None:
    """Name in the report the files and folders beside those in `used`; a folder counts with all its files."""
    walked = walk(folder)
    report.skipped.add(walked.skipped)
    counts = Counter(file.parts[0] if len(file.parts) == 1 else f"{file.parts[0]}/" for file in walked.files)
    for name, count in counts.items():
        if name.rstrip("/") not in used:
            text = f"folder {shown(name)}" if name.endswith("/") else shown(name)
            report.leave(text, count, counted(count, "file") if name.endswith("/") else "")
