"""What a run shows of its stages: on a terminal a bar and the time that is left, elsewhere only what stages have to say."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quee.work.progress import is_line

if TYPE_CHECKING:
    from rich.table import Table

_DVC = re.compile(
    r"Running stage '.*':|> .*|(Updating|Generating) lock file .*|Use `dvc push` to send your updates to remote storage\."
)
"""What DVC says of every stage."""


@dataclass(frozen=True)
class Ahead:
    """A stage that a run is to execute."""

    name: str
    seconds: float | None = None
    """How long it took last time; None where it never ran here."""


@dataclass
class Screen:
    """Lines and the bar of a run. Whatever else is printed meanwhile stands above the bar."""

    terminal: bool = field(default_factory=lambda: sys.stderr.isatty())
    _ahead: list[Ahead] = field(default_factory=list)
    _done: int = 0
    _all: int = 0
    _now: str = ""
    _began: float = 0.0
    _note: str = ""

    def line(self, text: str) -> None:
        """Take a line of a stage's output: progress goes to the bar, or nowhere; what is worth reading is printed."""
        if is_line(text):
            self._note = text
        elif text.strip() and not _DVC.fullmatch(text):
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bars(self, stages: Sequence[Ahead]) -> Iterator[None]:
        """Show a bar for the first of the stages that is not done, on a terminal."""
        self._ahead, self._all, self._done = list(stages), len(stages), 0
        if not (self.terminal and stages):
            yield
            return
        from rich.console import Console
        from rich.live import Live

        with Live(
            console=Console(stderr=True), get_renderable=self.shown, refresh_per_second=4, transient=True,
            redirect_stdout=sys.stdout.isatty(),
        ):  # fmt: skip
            yield

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """While one of the stages runs."""
        self._now, self._began, self._note = name, time.monotonic(), ""
        yield
        if self._ahead and self._ahead[0].name == name:
            self._ahead.pop(0)
            self._done += 1

    def shown(self) -> "Table":
        """The bar of the stage that runs, and under it what is left of all of them."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        whole, passed = Table.grid(), time.monotonic() - self._began
        if self._ahead and self._ahead[0].name == self._now:
            stage, row = self._ahead[0], Table.grid(padding=(0, 1))
            bar = ProgressBar(total=stage.seconds, completed=min(passed, stage.seconds or 0.0), width=24)
            row.add_row(stage.name, bar, Text(self.times(passed), overflow="ellipsis", no_wrap=True))
            whole.add_row(row)
        if self._ahead:
            whole.add_row(Text(self.left(passed), style="dim", overflow="ellipsis", no_wrap=True))
        return whole

    def times(self, passed: float) -> str:
        """How long the stage has run, of how long it took last time, and its own progress."""
        seconds = self._ahead[0].seconds
        of = f" of about {clock(seconds)}" if seconds else ""
        return f"{clock(passed)}{of}{'  ' if self._note else ''}{self._note}"

    def left(self, passed: float) -> str:
        """How many stages are done and how long the others will take, by how long they took last time."""
        known = [stage.seconds for stage in self._ahead if stage.seconds is not None]
        if self._ahead and self._ahead[0].name == self._now and self._ahead[0].seconds is not None:
            known[0] = max(known[0] - passed, 0.0)
        text = f"{self._done} of {self._all} stages done"
        text += f", about {clock(sum(known))} left" if known else ""
        unknown = len(self._ahead) - len(known)
        return text + (f", {unknown} that never ran here not counted" if unknown else "")


def clock(seconds: float) -> str:
    """A time such as 0:07, 12:40 or 3:05:00."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
