"""How often, and how long after, the flow tries again what failed because storage or a server did not answer."""

import os

RETRIES = 4
FIRST_SECONDS = float(os.environ.get("QUEE_RETRY_SECONDS", "10"))
"""Wait before the first retry; each further one waits twice as long."""


def delays() -> list[float]:
    """Seconds to wait before each retry."""
    return [FIRST_SECONDS * 2**attempt for attempt in range(RETRIES)]
