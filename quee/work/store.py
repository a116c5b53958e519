"""Stores of unfinished work: named pieces under a key of everything that decides them, checked when they are read.

A piece is a file, named after the piece and the digest of its content, that is written aside and renamed. A piece that
was cut off or altered is recognised and computed anew. `quee.work.keys` makes the key that names the folder or URL.
"""

import errno
import hashlib
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quee.errors import QueeError, UnreachableError, UsageError
from quee.work.reach import may_pass

OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "az", "oci", "memory")
"""Protocols whose puts are atomic."""
NOT_WRITABLE = {errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS}
"""Failures of a place where nothing can be kept, so that nothing goes on from there."""


@dataclass(frozen=True)
class Store:
    """Finished pieces of work under a path or URL. Files are `NAME-DIGEST`; DIGEST is the digest of the bytes."""

    url: str

    def files(self) -> dict[str, list[str]]:
        """Names of the stored pieces with their files, by one listing."""
        found: dict[str, list[str]] = {}
        for file in self._at_work(_files):
            found.setdefault(file.rpartition("-")[0], []).append(file)
        return found

    def names(self) -> set[str]:
        """Names of the stored pieces."""
        return set(self.files())

    def has(self, name: str) -> bool:
        """Whether the store has a piece; an object store lists only files that begin with the piece's name."""
        found: list[str] = self._at_work(lambda fs, folder: _files(fs, folder, f"{name}-"))
        return any(file.rpartition("-")[0] == name for file in found)

    def read(self, name: str, files: Sequence[str] | None = None) -> bytes | None:
        """A piece's bytes, or None; a damaged piece is removed.

        `files` are the piece's files from `files()`, if known, so that one listing serves many reads.
        """

        def get(fs: Any, folder: str) -> bytes | None:
            for file in _files(fs, folder, f"{name}-") if files is None else files:
                if file.rpartition("-")[0] == name:
                    try:
                        data: bytes = fs.cat_file(f"{folder}/{file}")
                    except FileNotFoundError:
                        continue
                    if file.endswith(f"-{_digest(data)}"):
                        return data
                    fs.rm(f"{folder}/{file}")
                    print(f"{name} was damaged: it is computed again", file=sys.stderr, flush=True)
            return None

        found: bytes | None = self._at_work(get)
        return found

    def kept(self, name: str, compute: Callable[[], bytes], files: Sequence[str] | None = None) -> bytes:
        """A piece's bytes; a missing or damaged piece is computed and written. `files` as for `read`."""
        data = self.read(name, files)
        if data is None:
            data = compute()
            self.write(name, data)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a piece, whole or not at all: an object store's put is atomic; other files are written aside and renamed."""
        file = f"{name}-{_digest(data)}"

        def put(fs: Any, folder: str) -> None:
            if _is(fs, *OBJECT_STORES):
                fs.pipe_file(f"{folder}/{file}", data)
                return
            aside = f"{folder}/.{file}.{uuid.uuid4().hex}.part"
            fs.makedirs(folder, exist_ok=True)
            try:
                fs.pipe_file(aside, data)
                fs.mv(aside, f"{folder}/{file}")
            except BaseException:
                if fs.exists(aside):
                    fs.rm(aside)
                raise

        self._at_work(put)

    def discard(self) -> None:
        """Remove all pieces."""
        self._at_work(lambda fs, folder: fs.rm(folder, recursive=True) if fs.exists(folder) else None)

    def __truediv__(self, name: str) -> "Store":
        return Store(f"{self.url.rstrip('/')}/{name}")

    def _at_work(self, act: Callable[[Any, str], Any]) -> Any:
        """Call a function with the file system and the folder; raises QueeError naming the store."""
        import fsspec

        try:
            fs, folder = fsspec.core.url_to_fs(self.url)
            fs.invalidate_cache()  # other machines write to the same folder
        except (ImportError, ValueError) as error:
            raise UsageError(f"work kept in {self.url}: {error}") from None
        try:
            return act(fs, folder.rstrip("/"))
        except OSError as error:
            detail = error.strerror or str(error)
            stays = "" if error.errno in NOT_WRITABLE else "; what is finished stays, the same command goes on"
            raise (UnreachableError if may_pass(error) else QueeError)(
                f"work kept in {self.url}: {detail}{stays}"
            ) from None
        except Exception as error:  # every kind of storage has its own types of errors
            if _is(fs, "file"):
                raise
            detail = " ".join(str(error).split())
            kind = UnreachableError if may_pass(error) else QueeError
            raise kind(f"work kept in {self.url}: {type(error).__name__}: {detail}") from None


def _files(fs: Any, folder: str, beginning: str = "") -> list[str]:
    """Names of the pieces' files, sorted; object stores list only those that begin with `beginning`."""
    try:
        by_prefix = beginning and _is(fs, "s3", "gs", "gcs")
        paths = fs.find(folder, prefix=beginning) if by_prefix else fs.ls(folder, detail=False)
    except FileNotFoundError:
        return []
    names = (path.rstrip("/").rpartition("/")[2] for path in paths)
    return sorted(name for name in names if not name.startswith("."))


def _is(fs: Any, *protocols: str) -> bool:
    own = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return bool(set(protocols) & set(own))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
