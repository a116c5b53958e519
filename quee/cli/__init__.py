"""The library's verbs of `quee`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from quee.errors import IntegrityError, UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Every verb's option to print JSON."""
PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
"""Keywords of every group of commands: help and errors are plain text."""


@contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """Around what reads a path that the command line names: that nothing is there is wrong usage (exit status 2).

    Status 4 is for what is there and damaged, and for missing files that quee itself has recorded.
    """
    try:
        yield
    except IntegrityError as error:
        if path is None or path.exists():
            raise
        raise UsageError(str(error)) from error
