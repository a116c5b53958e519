"""Work in independent shards, which any workers compute; finished shards are kept and not computed again.

A shard has a name and a function that computes its bytes; a `Store` keeps the bytes.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from quee.errors import IntegrityError, QueeError, UsageError
from quee.work.keys import PACKAGE, contents_below, key_of, versions
from quee.work.progress import Bar, part_of_a_shard, progress
from quee.work.store import Store
from quee.work.workers import Lanes

ROUNDS = 3
"""Number of times that workers may die in a row without finishing a shard."""
CHECK_SECONDS = 10.0


@dataclass(frozen=True)
class Shard:
    """One piece of work; `compute(*arguments)` returns its bytes, which are the same wherever it runs."""

    name: str
    compute: Callable[..., bytes]
    arguments: tuple[Any, ...]


@functools.cache
def fingerprint() -> tuple[tuple[str, str], ...]:
    """Key of everything besides the arguments that decides a shard's bytes: quee's code in this process, and the libraries."""
    return ("quee", key_of(contents_below(PACKAGE))[:16]), *versions().items()


def fill(store: Store, shard: Shard, expected: tuple[tuple[str, str], ...]) -> str:
    """Compute a shard into the store unless the store has it; returns its name. Runs in any process.

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


def run_shards(shards: Sequence[Shard], store: Store, lanes: Lanes, what: str) -> None:
    """Compute all shards that are not in the store; a shard whose worker died is tried again.

    Shards in the store are checked when they are read, not here. Raises the error of a shard, or QueeError where workers
    die ROUNDS times in a row without finishing a shard.
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


def _round(todo: list[Shard], store: Store, lanes: Lanes, bar: Bar) -> str:
    """Compute shards and remove finished ones from `todo`; returns how workers were lost, or an empty string."""
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


def read_shards(shards: Sequence[Shard], store: Store) -> Iterator[bytes]:
    """The shards' bytes in order, each read once; a damaged shard is computed again in this process.

    Raises IntegrityError where a shard is missing.
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
