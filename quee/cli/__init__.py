"""The library's verbs of `quee`."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Every verb's option to print JSON."""
