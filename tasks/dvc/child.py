"""DVC's command line in a process that ends when `quee run` or the flow ends.

DVC catches every error and only logs a message. This process reads the logged errors and has two exit statuses of its
own: another DVC is at work (BUSY), and storage does not answer (AWAY).
"""

import logging
import sys

from quee.work.reach import causes, may_pass
from tasks.dvc.process import AWAY, BUSY
from tasks.work.lifeline import die_with_parent

PACKAGES = ("dvc", "dvc_data", "dvc_objects")


class Heard(logging.Handler):
    """Notes the kinds of the errors that DVC logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.status = 0
        """BUSY or AWAY once such an error was logged, else 0."""

    def emit(self, record: logging.LogRecord) -> None:
        from dvc.lock import LockError

        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        if any(isinstance(cause, LockError) for cause in causes(error)):
            self.status = BUSY
        elif may_pass(error):
            self.status = self.status or AWAY


def main(arguments: list[str]) -> int:
    """Run DVC; returns its exit status, or for a failure of a known kind BUSY or AWAY."""
    from dvc.cli import main as dvc

    heard = Heard()
    for name in PACKAGES:
        logging.getLogger(name).addHandler(heard)
    for name in ("dvc.repo.scm_context", "dvc.dvcfile"):  # no advice to `git add` after every stage
        logging.getLogger(name).setLevel(logging.WARNING)
    status: int = dvc(arguments)
    return heard.status or status if status else 0


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
