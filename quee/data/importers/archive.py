"""Members of a tar archive or files of a folder by base name, read into memory; never extracted."""

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from quee.errors import QueeError

MAX_BYTES = 512 << 20
"""Of one member."""


def read_members(source: Path, wanted: set[str]) -> dict[str, bytes]:
    """Contents of the regular files called so, wherever in `source` they are.

    Raises QueeError when the archive is damaged or a name occurs twice.
    """
    if source.is_dir():
        return _read_folder(source, wanted)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name not in wanted or not member.isfile():
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


def _read_folder(folder: Path, wanted: set[str]) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name in wanted and path.is_file():
            if path.name in found:
                raise QueeError(f"{folder}: {path.name} is in it twice")
            if path.stat().st_size > MAX_BYTES:
                raise QueeError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
            found[path.name] = path.read_bytes()
    return found
