"""Keys of work that is kept to be resumed or used again.

A key is a digest of the files, the versions of the libraries and the settings that decide the work. docs/operations.md
lists every cache.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from quee.work.io import canonical, content_digest

LIBRARIES = (
    "numpy", "Pillow", "pyarrow", "safetensors", "scikit-learn", "scipy", "timm", "torch", "torchvision",
)  # fmt: skip
"""Distributions whose version may change unfinished work."""

ABSENT = "absent"

PACKAGE = Path(__file__).parents[1]


@functools.cache
def installed(name: str) -> str:
    """Version of an installed distribution, `absent` where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Installed version by name of a distribution."""
    return {name: installed(name) for name in names}


def files_below(path: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of all files below a folder, links followed; for a file, the file itself under the name `.`.

    `__pycache__` is left out. A folder that is linked into itself is entered once.
    """
    if path.is_file():
        yield ".", path
        return
    entered: set[str] = set()
    found = []
    for where, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(where)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(where) / name for name in names]
    yield from sorted((file.relative_to(path).as_posix(), file) for file in found)


def contents_below(path: Path) -> list[list[str]]:
    """Name and SHA-256 of every file of a folder at every depth; a link to nothing is `absent`."""
    return [[name, content_digest(file) if file.exists() else ABSENT] for name, file in files_below(path)]


def code(*names: str) -> list[list[Any]]:
    """Content of files and folders of this package, such as `data/decode.py`; raises ValueError for one without content."""
    found = [[name, contents_below(PACKAGE / name)] for name in names]
    if missing := [name for name, content in found if not content]:
        raise ValueError(f"quee has no code in {missing[0]}")
    return found


def key_of(*parts: Any) -> str:
    """The key of work that depends on these plain values: 32 hexadecimal digits."""
    return hashlib.sha256(canonical(parts)).hexdigest()[:32]
