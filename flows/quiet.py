"""Prefect without chatter: no telemetry, on the screen errors only, a home inside the checkout, unless set otherwise.

The server keeps what flows and tasks say of themselves, because the page of a run shows it.
"""

import os
from pathlib import Path

from quee.errors import UsageError
from tasks.work.place import project_root

HOME = Path(".quee") / "prefect"
DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_CLI_PROMPT": "false",
}


def settle() -> None:
    """Set what is not set. The home is made in a project alone, with its parents: Prefect makes one level only."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        home = project_root() / HOME
    except UsageError:
        return
    if os.environ.setdefault("PREFECT_HOME", str(home)) == str(home):
        home.mkdir(parents=True, exist_ok=True)


settle()
