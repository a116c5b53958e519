"""The pipeline: one module per DVC stage, run as `python -m tasks.STAGE EXPERIMENT`, and `quee`'s project verbs."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def _use_project_environment() -> None:
    """Start again with the checkout's `.venv` where `dvc repro` was called without activating it."""
    python = Path(__file__).parent.parent / ".venv" / "bin" / "python"
    module_run = sys.orig_argv[1:2] == ["-m"]
    if module_run and find_spec("pydantic") is None and python.exists() and sys.prefix != str(python.parent.parent):
        os.execv(python, [str(python), *sys.orig_argv[1:]])


_use_project_environment()
