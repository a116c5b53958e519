"""Progress of work over a few seconds: a bar on a terminal, occasional lines elsewhere."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 15.0
"""Seconds between two lines without a terminal."""
EVERY = "QUEE_PROGRESS_SECONDS"
"""Variable with another such time: who reads the lines of a process to show them wants them more often."""
_LINE = re.compile(r".+: \d+/\d+(, about \d+ s left)?( .*)?")
_open: list["Bar"] = []
_inner: ContextVar[bool] = ContextVar("inner", default=False)


@contextmanager
def part_of_a_shard() -> Iterator[None]:
    """Within this block bars are added to the open display; a worker has none and shows no bars."""
    token = _inner.set(True)
    try:
        yield
    finally:
        _inner.reset(token)


class Bar:
    """One task's progress: call `advance` after each unit of work, `note` to show a figure beside it.

    `done` units were done before; the remaining time is estimated without them.
    """

    def __init__(self, description: str, total: int, done: int = 0) -> None:
        self.description, self.total = description, total
        self.done = self._before = done
        self._note = ""
        self._start = self._last = time.monotonic()
        self._rich: Progress | None = None
        self._every = float(os.environ.get(EVERY, PLAIN_SECONDS))
        self._inner = _inner.get()
        self._outer = next(iter(_open), None) if self._inner else None
        if self._inner:
            return
        if sys.stderr.isatty():
            self._rich = _display()
            self._task = self._rich.add_task(description, total=total, completed=done, note="")
            self._rich.start()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        self.done = min(self.done + units, self.total)
        self._note = note or self._note
        if self._inner:
            if self._outer:
                self._outer.advance(0, f"{self.description} {self.done}/{self.total} {self._note}".rstrip())
            return
        if self._rich:
            self._rich.update(self._task, completed=self.done, note=self._note)
        elif (now := time.monotonic()) - self._last >= self._every:
            self._last = now
            line = f"{self.description}: {self.done}/{self.total}"
            if new := self.done - self._before:
                line += f", about {(now - self._start) / new * (self.total - self.done):.0f} s left"
            print(f"{line} {self._note}".rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._outer:
            self._outer._note = ""
        if self._rich:
            self._rich.stop()


def _display() -> "Progress":
    from rich import progress  # a fifth of the time in which short commands start
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Bar]:
    bar = Bar(description, total, done)
    _open.append(bar)
    try:
        yield bar
    finally:
        _open.remove(bar)
        bar.close()


def is_line(text: str) -> bool:
    """Whether a line of output is what a bar prints without a terminal."""
    return _LINE.fullmatch(text) is not None
