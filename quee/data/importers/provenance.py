"""What a source is called in a record that outlives it: a package with its version, or its own name; never a temporary folder."""

import gzip
import re
import tempfile
import zlib
from pathlib import Path

from quee.data.walk import shown

_LAST = re.compile(r"(\S+) \((\S+)\) ")
"""Beginning of the last entry of a Debian package's changelog: the package and its version."""
MOST = 1000
"""Bytes that are read of a changelog."""


def package_of(source: Path) -> str | None:
    """The Debian package, with its version, that a folder `usr/share/datasets/NAME` is of, installed or unpacked; else None."""
    path = source.resolve()
    if path.parts[-4:-1] != ("usr", "share", "datasets"):
        return None
    for log in sorted((path.parent.parent / "doc").glob(f"*{path.name}/changelog*.gz")):
        try:
            with gzip.open(log) as file:
                entry = _LAST.match(file.readline(MOST).decode("utf-8", "replace"))
        except (OSError, EOFError, zlib.error):
            continue
        if entry and entry[1].endswith(path.name):
            return f"Debian's package {entry[1]} {entry[2]}"
    return None


def lasting(source: Path) -> str:
    """The package of a source, or its path; of one in the temporary folder its name alone."""
    if package := package_of(source):
        return package
    aside = source.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
    return shown(source.name if aside else source)
