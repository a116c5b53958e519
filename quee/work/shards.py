"""Work cut into independent shards: computed wherever there are workers, kept as they finish, never computed twice.

A shard has a name and a function that makes its bytes. They are kept in a `ShardStore`, a folder or any URL that fsspec
knows, in a file named after the shard and the digest of its content: what was cut off or altered is seen, and computed again.
"""

import functools
import hashlib
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from quee.errors import IntegrityError, QueeError, UnreachableError, UsageError
from quee.work.keys import PACKAGE, contents_below, key_of, versions
from quee.work.progress import Bar, part_of_a_shard, progress
from quee.work.reach import may_pass
from quee.work.workers import Lanes

ROUNDS = 3
"""So often may workers die without a single shard being finished between."""
CHECK_SECONDS = 10.0
OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "az", "oci", "memory")
"""A put there is seen whole or not at all."""


@dataclass(frozen=True)
class ShardStore:
    """Finished shards under a path or URL. Files are `NAME-DIGEST`, DIGEST being of the bytes."""

    url: str

    def files(self) -> dict[str, list[str]]:
        """Names of the shards there are, with their files: one listing."""
        found: dict[str, list[str]] = {}
        for file in self._at_work(_files):
            found.setdefault(file.rpartition("-")[0], []).append(file)
        return found

    def names(self) -> set[str]:
        """Names of the shards there are."""
        return set(self.files())

    def has(self, name: str) -> bool:
        """Whether a shard is there; an object store lists what begins with its name alone."""
        found: list[str] = self._at_work(lambda fs, folder: _files(fs, folder, f"{name}-"))
        return any(file.rpartition("-")[0] == name for file in found)

    def read(self, name: str, files: Sequence[str] | None = None) -> bytes | None:
        """A shard's bytes, none where it is not there; one that is not as it was written is removed.

        `files` are the shard's, where they are known from `files()`.
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
                    print(f"shard {name} was damaged: it is computed again", file=sys.stderr, flush=True)
            return None

        found: bytes | None = self._at_work(get)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Keep a shard, whole or not at all: an object store's put is, elsewhere it is written aside and renamed."""
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
        """Remove all shards."""
        self._at_work(lambda fs, folder: fs.rm(folder, recursive=True) if fs.exists(folder) else None)

    def __truediv__(self, name: str) -> "ShardStore":
        return ShardStore(f"{self.url.rstrip('/')}/{name}")

    def _at_work(self, act: Callable[[Any, str], Any]) -> Any:
        """Do something with the file system and the folder; raises QueeError naming the store."""
        import fsspec

        try:
            fs, folder = fsspec.core.url_to_fs(self.url)
            fs.invalidate_cache()  # other machines write here too
        except (ImportError, ValueError) as error:
            raise UsageError(f"shards in {self.url}: {error}") from None
        try:
            return act(fs, folder.rstrip("/"))
        except OSError as error:
            detail = error.strerror or str(error)
            raise (UnreachableError if may_pass(error) else QueeError)(
                f"shards in {self.url}: {detail}; finished ones are kept, the same command goes on"
            ) from None
        except Exception as error:  # every store has its own
            if _is(fs, "file"):
                raise
            detail = " ".join(str(error).split())
            kind = UnreachableError if may_pass(error) else QueeError
            raise kind(f"shards in {self.url}: {type(error).__name__}: {detail}") from None


def _files(fs: Any, folder: str, beginning: str = "") -> list[str]:
    """Names of the shards' files, sorted; only those with some beginning where that spares an object store work."""
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


@dataclass(frozen=True)
class Shard:
    """One piece of work: `compute(*arguments)` are its bytes, the same wherever it runs."""

    name: str
    compute: Callable[..., bytes]
    arguments: tuple[Any, ...]


@functools.cache
def fingerprint() -> tuple[tuple[str, str], ...]:
    """What decides a shard's bytes besides its arguments: quee's code as this process loaded it, and the libraries."""
    return ("quee", key_of(contents_below(PACKAGE))[:16]), *versions().items()


def fill(store: ShardStore, shard: Shard, expected: tuple[tuple[str, str], ...]) -> str:
    """Compute a shard into the store unless it is there; returns its name. Runs in any process.

    Raises UsageError in a worker whose code or libraries differ from the caller's.
    """
    if (own := fingerprint()) != expected:
        wrong = ", ".join(f"{name} {have} instead of {want}" for (name, have), (_, want) in zip(own, expected, strict=True)
                          if have != want)  # fmt: skip
        raise UsageError(f"a worker runs other code than this process ({wrong}): restart the workers with the same")
    if not store.has(shard.name):
        with part_of_a_shard():
            store.write(shard.name, shard.compute(*shard.arguments))
    return shard.name


def run_shards(shards: Sequence[Shard], store: ShardStore, lanes: Lanes, what: str) -> None:
    """Have all shards in the store. Those there are not computed again, those whose worker died are retried.

    Whether what is there is as it was written shows when it is read.

    Raises what a shard raised, or QueeError when workers die ROUNDS times with nothing finished between.
    """
    there = store.names()
    todo = [shard for shard in shards if shard.name not in there]
    vain = 0
    with progress(what, len(shards), len(shards) - len(todo)) as bar:
        while todo:
            before = len(todo)
            lost = _round(todo, store, lanes, bar)
            vain = 0 if len(todo) < before else vain + 1
            if lost and vain >= ROUNDS:
                names = ", ".join(shard.name for shard in todo[:3])
                raise QueeError(
                    f"{what}: workers died {vain} times over and no shard was finished ({lost}); to do: {names} …; "
                    "out of memory? smaller shards (QUEE_SHARD_SIZE) need less; finished ones are kept"
                )
            if lost:
                print(f"{what}: a worker died ({lost}); {len(todo)} shards to go", file=sys.stderr, flush=True)


def _round(todo: list[Shard], store: ShardStore, lanes: Lanes, bar: Bar) -> str:
    """Compute shards, taking each from `todo` as it is finished; returns how workers were lost, empty when none was."""
    pending: dict[Future[str], Shard] = {}
    lost = ""

    def collect(jobs: Sequence[Future[str]]) -> None:
        nonlocal lost
        for job in jobs:
            shard = pending.pop(job)
            try:
                job.result()
            except lanes.lost as error:
                lost = lost or type(error).__name__
                continue
            todo.remove(shard)
            bar.advance()

    with lanes.open() as executor:
        try:
            for shard in list(todo):
                job = executor.submit(fill, store, shard, fingerprint())
                pending[job] = shard
                if job.done():
                    collect([job])
            while pending:
                done, _ = wait(pending, CHECK_SECONDS, FIRST_COMPLETED)
                collect(list(done))
                if not done:
                    lanes.check(executor)
        except lanes.lost as error:
            lost = lost or type(error).__name__
            for job in [job for job in pending if job.done() and not job.cancelled() and job.exception() is None]:
                collect([job])
    return lost


def read_shards(shards: Sequence[Shard], store: ShardStore) -> Iterator[bytes]:
    """The shards' bytes in order, each read once; one that is not as it was written is computed again, here.

    Raises IntegrityError when one is gone.
    """
    there = store.files()
    for shard in shards:
        data = store.read(shard.name, there[shard.name]) if shard.name in there else None
        if data is None and shard.name in there and not store.has(shard.name):
            with part_of_a_shard():
                data = shard.compute(*shard.arguments)
            store.write(shard.name, data)
        if data is None:
            raise IntegrityError(f"shard {shard.name} in {store.url} went missing; the same command computes it again")
        yield data
