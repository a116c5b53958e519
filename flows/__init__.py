"""Prefect flows around the pipeline.

`python -m flows.pipeline` runs under a keeper, which ends the server that Prefect starts for the flow even when the flow
is killed. The keeper is started before Prefect is imported, which takes a second.
"""

import os
import sys

KEPT = "QUEE_KEPT"
"""Environment variable of the process that a keeper watches."""


def _run_kept() -> None:
    called = sys.argv[:1] == ["-m"] and "flows.pipeline" in sys.orig_argv
    if not called or KEPT in os.environ:
        return
    from tasks.work.lifeline import die_with_make, run_kept
    from tasks.work.place import end_elsewhere

    end_elsewhere()
    die_with_make()
    sys.exit(run_kept([sys.executable, *sys.orig_argv[1:]], {**os.environ, KEPT: "1"}))


_run_kept()
