"""Prefect without chatter: no telemetry, errors only, a home inside the checkout, unless set otherwise."""

import os
from pathlib import Path

HOME = Path(".quee") / "prefect"
DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_HOME": str(HOME.resolve()),
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_CLI_PROMPT": "false",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
