"""Errors that are the user's to read: one or two lines, and the exit status they end a command with."""


class QueeError(Exception):
    """Something failed; the message says what, which value, and what is valid."""

    exit_status = 1
    may_pass = False
    """Whether the same command may succeed later by itself: storage or a server did not answer."""


class UnreachableError(QueeError):
    """Storage or a server does not answer for now; what is finished is kept."""

    may_pass = True


class UsageError(QueeError, ValueError):
    """Wrong usage or settings; a ValueError to callers from Python."""

    exit_status = 2


class PendingError(QueeError):
    """Work is pending where the caller asked whether any is (`quee plan --check`)."""

    exit_status = 3


class IntegrityError(QueeError):
    """A file is missing, truncated, of another format, or its digest differs."""

    exit_status = 4


class BusyError(QueeError):
    """Another process holds what this one needs."""

    exit_status = 5


class DisagreementError(QueeError):
    """An engine does not do what the reference does, within what is allowed."""
