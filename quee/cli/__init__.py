"""The library's verbs of `quee`."""

from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Every verb's option to print JSON."""
PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
"""Keywords of every group of commands: help and errors are plain text."""
