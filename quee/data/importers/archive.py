"""Members of a tar archive or files of a folder by base name, read into memory; never extracted."""

import tarfile
import zlib
from collections import Counter
from collections.abc import Container
from pathlib import Path, PurePosixPath

from quee.data.importers.report import Report, counted
from quee.data.walk import Skipped, shown, walk
from quee.errors import QueeError

MAX_BYTES = 512 << 20
"""Of one member."""


def read_members(source: Path, wanted: set[str], report: Report | None = None) -> dict[str, bytes]:
    """Contents of the regular files called so, wherever in `source` they are; the others are counted in the report.

    Raises QueeError when the archive is damaged or a name occurs twice.
    """
    skipped = report.skipped if report else Skipped()
    if source.is_dir():
        return _read_folder(source, wanted, skipped)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if not member.isfile():
                    continue
                if name not in wanted:
                    skipped.admits(member.name, ())
                    continue
                if name in found:
                    raise QueeError(f"{source}: {name} is in it twice")
                if member.size > MAX_BYTES:
                    raise QueeError(f"{source}: {name} has {member.size:,} bytes; at most {MAX_BYTES:,} are read")
                opened = archive.extractfile(member)
                content = opened.read() if opened else b""
                if len(content) != member.size:
                    raise QueeError(f"{source}: truncated in {name}")
                found[name] = content
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        why = "none of gz, bz2, xz, tar" if "not be opened successfully" in str(error) else " ".join(str(error).split())
        raise QueeError(f"{source}: not a whole tar archive ({why})") from None
    return found


def _read_folder(folder: Path, wanted: set[str], skipped: Skipped) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    walked = walk(folder)
    skipped.add(walked.skipped)
    for file in walked.files:
        path, name = folder / file.name, file.parts[-1]
        if name not in wanted:
            skipped.admits(file.name, ())
            continue
        if name in found:
            raise QueeError(f"{folder}: {name} is in it twice")
        if file.size > MAX_BYTES:
            raise QueeError(f"{path} has {file.size:,} bytes; at most {MAX_BYTES:,} are read")
        found[name] = path.read_bytes()
    return found


def leave_others(folder: Path, used: Container[str], report: Report) -> None:
    """Name in the report what lies in a folder beside the files and folders used, a folder with all that is in it."""
    walked = walk(folder)
    report.skipped.add(walked.skipped)
    counts = Counter(file.parts[0] if len(file.parts) == 1 else f"{file.parts[0]}/" for file in walked.files)
    for name, count in counts.items():
        if name.rstrip("/") not in used:
            text = f"folder {shown(name)}" if name.endswith("/") else shown(name)
            report.leave(text, count, counted(count, "file") if name.endswith("/") else "")
