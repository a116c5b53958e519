"""Which failures may pass by themselves: storage and servers out of reach. Wrong settings and damaged files do not."""

import errno
import os
import re

from quee.errors import BusyError, IntegrityError, QueeError, UsageError
from tasks.tracking import UnreachableError

RETRIES = 4
FIRST_SECONDS = float(os.environ.get("QUEE_RETRY_SECONDS", "10"))
"""Wait before the first retry; each further one waits twice as long."""

ERRNO = {
    errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EPIPE, errno.EREMOTEIO,
}  # fmt: skip
WORDS = re.compile(
    r"time[d -]*out|temporar|connection|unreachable|reset by peer|broken pipe|stale file handle|input/output error"
    r"|too many requests|slow ?down|\b(429|500|502|503|504)\b|name resolution|name or service|network is|endpoint",
    re.IGNORECASE,
)
"""How storage and servers say in a message, of DVC for instance, that they are out of reach for now."""


def delays() -> list[float]:
    """Seconds to wait before each retry."""
    return [FIRST_SECONDS * 2**attempt for attempt in range(RETRIES)]


def may_pass(error: BaseException) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, UnreachableError):
        return True
    if isinstance(error, UsageError | BusyError) or not isinstance(error, Exception):
        return False
    if isinstance(error, IntegrityError):  # a file that cannot be fetched is missing for now; a damaged one stays so
        return "to be pulled" in str(error) and bool(WORDS.search(str(error)))
    if isinstance(error, QueeError):
        return error.exit_status == 1 and bool(WORDS.search(str(error).partition("\nlog: ")[0]))
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in ERRNO
    return isinstance(error, ConnectionError | TimeoutError)
