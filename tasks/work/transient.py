"""When the flow retries work that failed because storage or a server did not answer."""

import os

RETRIES = 4
FIRST_SECONDS = float(os.environ.get("QUEE_RETRY_SECONDS", "10"))
"""Seconds before the first retry; each further retry waits twice as long."""


def delays() -> list[float]:
    """Seconds to wait before each retry, in order."""
    return [FIRST_SECONDS * 2**attempt for attempt in range(RETRIES)]
