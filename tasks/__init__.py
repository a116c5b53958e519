"""The pipeline: one module per DVC stage, run as `python -m tasks.STAGE EXPERIMENT`, and `quee`'s project verbs."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def _called() -> str:
    """The module of this package that `python -m` was called with, or an empty string."""
    name = sys.orig_argv[2] if sys.orig_argv[1:2] == ["-m"] and len(sys.orig_argv) > 2 else ""
    return name if name.startswith("tasks.") else ""


def _refuse_other_places() -> None:
    """End in one line where a stage is called outside of the project's folder, before torch is imported."""
    if _called() in ("", "tasks.dvc.child"):
        return
    from tasks.work.place import end_elsewhere

    end_elsewhere()


def _use_project_environment() -> None:
    """Start again with the checkout's `.venv` where `dvc repro` was called without activating it."""
    python = Path(__file__).parent.parent / ".venv" / "bin" / "python"
    module_run = sys.orig_argv[1:2] == ["-m"]
    if module_run and find_spec("pydantic") is None and python.exists() and sys.prefix != str(python.parent.parent):
        os.execv(python, [str(python), *sys.orig_argv[1:]])


_use_project_environment()
_refuse_other_places()
