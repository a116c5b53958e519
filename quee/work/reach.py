"""Failures that may pass: storage and servers out of reach. Types and status codes decide, not messages."""

import errno
import socket
from collections.abc import Iterator
from typing import Any

from quee.errors import QueeError

ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED,
    errno.ECONNABORTED, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EPIPE,
    errno.EREMOTEIO,
}  # fmt: skip
STATUSES = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses: timeout, too early, too many requests, or a fault of the server."""

CLIENTS = {
    ("aiohttp", "ClientConnectionError"),
    ("azure", "ServiceRequestError"),
    ("azure", "ServiceResponseError"),
    ("botocore", "ConnectionError"),
    ("botocore", "HTTPClientError"),
    ("distributed", "CommClosedError"),
    ("paramiko", "SSHException"),
    ("requests", "ConnectionError"),
    ("requests", "Timeout"),
    ("urllib3", "HTTPError"),
}
"""Package and class of clients' errors for a missing answer; subclasses count, too."""

DEPTH = 20
"""Causes of an error that are examined at most."""


def may_pass(error: BaseException) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, QueeError):
        return error.may_pass
    return any(_no_answer(cause) for cause in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, outermost first, including members of groups."""
    waiting = [error]
    for _ in range(DEPTH):
        if not waiting:
            return
        if (found := waiting.pop(0)) is None:
            continue
        yield found
        waiting += found.exceptions if isinstance(found, BaseExceptionGroup) else []
        waiting.append(found.__cause__ or (None if found.__suppress_context__ else found.__context__))


def _no_answer(error: BaseException) -> bool:
    if (status := _status(error)) is not None:
        return status in STATUSES
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if kinds & CLIENTS or isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    return isinstance(error, OSError) and error.errno in ERRNO


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error, in any of the clients' forms."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    asked = getattr(error, "get_http_status_code", None)
    forms = (
        response,
        getattr(response, "status_code", None),
        *(getattr(error, name, None) for name in ("status_code", "status", "code")),
        asked() if callable(asked) else None,
    )
    return next((form for form in forms if isinstance(form, int) and 100 <= form < 600), None)
