"""The files of a user's folder: one walk for importers, `quee predict` and the examples of `quee serve`.

Hidden, thumbnail and system entries are skipped at every depth. Everything that is left out is counted.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from quee.errors import QueeError

T = TypeVar("T")
R = TypeVar("R")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
"""Suffixes of the files that are read as images, in lower case."""
SYSTEM = frozenset(
    (
        *("@eadir", "@tmp", "@__thumb", "@recycle", "@recently-snapshot", "@synoresource", "#recycle", "#snapshot"),
        *("__macosx", "icon\r", "network trash folder", "temporary items", "__pycache__", "lost+found"),
        *("$recycle.bin", "system volume information", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db"),
    )
)
"""Names, in lower case, of entries that file servers and desktops make."""
THUMBNAILS = frozenset(("thumbnails", "_thumbnails", "thumbs", "_thumbs"))
"""Folders of thumbnails. They are skipped below the first level; on the first level they could be classes."""
SHOWN = 20
"""Names that a message gives at most."""
BREAK = "\n  "
SKIP_HINT = "--skip-bad goes on without what cannot be used"


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is hidden or made by the system."""
    lower = name.lower()
    return name.startswith(".") or lower in SYSTEM or lower.startswith("thumbs.db")


def shown(path: str | Path) -> str:
    """A path as valid UTF-8 text; other bytes of a name are written in the form `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def class_name(folder: str) -> str:
    """Name of the class of a folder: the folder's name as text with composed accents, the same on every system."""
    return unicodedata.normalize("NFC", shown(folder))


def some(names: Iterable[str], most: int = SHOWN, separator: str = ", ") -> str:
    """The first of several names, and the number of the others."""
    names = list(names)
    more = f"{separator}and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def faults_text(faults: Sequence[str], what: str, hint: str = "") -> str:
    """One message for several faults: the first twenty, a line each, and the count; `what` describes them in plural."""
    hint = f"; {hint}" if hint else ""
    if len(faults) == 1:
        return f"{faults[0]}{hint}"
    return f"{len(faults):,} {what}{hint}:\n  {some(faults, separator=BREAK)}"


def each(function: Callable[[T], R], items: Iterable[T], what: str) -> list[R]:
    """`function` of every item. Raises one error, of the first error's type, with the messages for all refused items."""
    found: list[R] = []
    errors: list[QueeError] = []
    for item in items:
        try:
            found.append(function(item))
        except QueeError as error:
            errors.append(error)
    if errors:
        raise type(errors[0])(faults_text(list(map(str, errors)), what))
    return found


@dataclass(frozen=True)
class Found:
    """One file: its name below the folder with `/`, undecoded, its size in bytes and its time of change."""

    name: str
    size: int
    time: int

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("/"))


@dataclass
class Skipped:
    """Numbers of files that were not taken."""

    other: Counter[str] = field(default_factory=Counter)
    """Files of kinds that are not read, by suffix in lower case."""
    hidden: int = 0
    """Hidden files, thumbnails and files of the system, also within such folders."""
    broken: int = 0
    """Links that lead nowhere or in a circle, and entries that are no regular files."""

    def admits(self, name: str, kinds: Container[str]) -> bool:
        """Whether a file of this name, with `/`, is taken; counts it otherwise."""
        if any(ignored(part) for part in name.split("/") if part not in ("", ".")):
            self.hidden += 1
            return False
        return self.reads(name, kinds)

    def reads(self, name: str, kinds: Container[str]) -> bool:
        """Whether a file that is not hidden is of one of these kinds; counts it otherwise."""
        if (suffix := os.path.splitext(name)[1].lower()) in kinds:
            return True
        self.other[shown(suffix)] += 1
        return False

    def add(self, more: "Skipped") -> None:
        self.other.update(more.other)
        self.hidden += more.hidden
        self.broken += more.broken

    def kinds(self) -> list[tuple[str, int]]:
        """Kinds that are not read, such as `6 .tif`, with their numbers, the most frequent first."""
        found = sorted(self.other.items(), key=lambda kind: (-kind[1], kind[0]))
        return [(f"{count:,} {suffix or 'without a suffix'}", count) for suffix, count in found]

    def others(self) -> list[tuple[str, int]]:
        """The other files, such as `81 hidden files`, with their numbers."""
        counts = ((self.hidden, "hidden file"), (self.broken, "broken link"))
        return [(f"{count:,} {what}{'' if count == 1 else 's'}", count) for count, what in counts if count]

    def __str__(self) -> str:
        return some(text for text, _ in (*self.kinds(), *self.others()))


@dataclass
class Walk:
    """The contents of a folder."""

    folder: Path
    files: list[Found] = field(default_factory=list)
    """In the order of the parts of their names."""
    folders: list[str] = field(default_factory=list)
    """Names of all folders that are not skipped, empty ones included."""
    skipped: Skipped = field(default_factory=Skipped)

    def of(self, kinds: Container[str]) -> "Walk":
        """The same walk with only the files of these kinds, suffixes in lower case; the others are counted."""
        skipped = Skipped()
        skipped.add(self.skipped)
        files = [file for file in self.files if skipped.reads(file.name, kinds)]
        return Walk(self.folder, files, self.folders, skipped)


def walk(folder: Path) -> Walk:
    """Everything below a folder. Links are followed, but not in circles.

    Raises QueeError naming a folder that cannot be read.
    """
    found = Walk(folder)
    _enter(found, folder, "", ())
    found.files.sort(key=lambda file: file.parts)
    found.folders.sort(key=lambda name: name.split("/"))
    return found


def _enter(found: Walk, folder: Path, prefix: str, above: tuple[object, ...]) -> None:
    try:
        own = folder.stat()
    except OSError as error:
        raise QueeError(f"{shown(folder)}: cannot be read ({error.strerror})") from None
    if (here := (own.st_dev, own.st_ino)) in above:
        found.skipped.broken += 1
        return
    if prefix:
        found.folders.append(prefix.removesuffix("/"))
    for entry in _entries(folder):
        if ignored(entry.name) or (prefix and entry.name.lower() in THUMBNAILS):
            found.skipped.hidden += _count(entry)
            continue
        facts = _facts(entry)
        if facts is not None and stat.S_ISDIR(facts.st_mode):
            _enter(found, Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        elif facts is None or not stat.S_ISREG(facts.st_mode):
            found.skipped.broken += 1
        else:
            found.files.append(Found(prefix + entry.name, facts.st_size, facts.st_mtime_ns))


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Facts of an entry or of the target of a link; None for a link that leads nowhere or to itself."""
    try:
        return entry.stat()
    except OSError:
        return None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise QueeError(f"{shown(folder)}: cannot be read ({error.strerror})") from None


def _count(entry: os.DirEntry[str]) -> int:
    """The number of files in a skipped entry."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


def readable(path: str) -> str | None:
    """Why a file's permissions forbid reading it; None where they allow it."""
    return None if os.access(path, os.R_OK) else "no permission to read it"


def top_files(folder: Path) -> Iterator[Path]:
    """The regular files directly in a folder that are not skipped, sorted."""
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if not ignored(entry.name) and (facts := _facts(entry)) is not None and stat.S_ISREG(facts.st_mode):
            yield folder / entry.name
