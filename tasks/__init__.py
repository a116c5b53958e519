"""The pipeline: one module per DVC stage, run as `python -m tasks.STAGE EXPERIMENT`, and `quee`'s project verbs."""

import sys


def _called() -> str:
    """The module of this package that `python -m` was called with, or an empty string."""
    name = sys.orig_argv[2] if sys.orig_argv[1:2] == ["-m"] and len(sys.orig_argv) > 2 else ""
    return name if name.startswith("tasks.") else ""


def _refuse_other_places() -> None:
    """End with a one-line message where a stage is called outside of the project's folder, before torch is imported."""
    if _called() in ("", "tasks.dvc.child"):
        return
    from tasks.work.place import end_elsewhere

    end_elsewhere()


_refuse_other_places()
