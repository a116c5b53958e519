"""Errors for users: a message of one or two lines, and the exit status of the command."""

import errno

PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk or folder, not of this program."""


class QueeError(Exception):
    """Something failed; the message says what, which value, and what is valid."""

    exit_status = 1
    """Exit status of the command."""
    may_pass = False
    """Whether the same command may succeed later without a change: storage or a server did not answer."""


class UnreachableError(QueeError):
    """Storage or a server does not answer at present; finished work is kept."""

    may_pass = True


class UsageError(QueeError, ValueError):
    """Wrong usage or settings; from Python also a ValueError."""

    exit_status = 2


class PendingError(QueeError):
    """Work is pending, and the caller asked whether any is (`quee plan --check`)."""

    exit_status = 3


class IntegrityError(QueeError):
    """A file is missing, truncated, of another format, or its digest differs."""

    exit_status = 4


class DamagedError(IntegrityError, UsageError):
    """An image or file that a caller gave is truncated, damaged or of another format; from Python also a ValueError."""


class BusyError(QueeError):
    """Another process holds a lock that this one needs."""

    exit_status = 5


def require(holds: bool, message: str) -> None:
    """Raises UsageError with the message unless something holds."""
    if not holds:
        raise UsageError(message)


def one_line(error: BaseException, most: int = 160) -> str:
    """An error's text, or its kind where it has none, in one line of bounded length."""
    return shortened(" ".join(str(error).split()) or type(error).__name__, most)


def shortened(text: str, most: int = 160) -> str:
    """A text of bounded length."""
    return text if len(text) <= most else text[:most] + "…"


class DisagreementError(QueeError):
    """An engine differs from the reference by more than is allowed."""
