"""DVC's command line in a process that ends when `quee run` or the flow ends. Part of tasks/dvc.py."""

import logging
import sys

from tasks.lifeline import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    from dvc.cli import main

    for name in ("dvc.repo.scm_context", "dvc.dvcfile"):  # advice to `git add`, after every stage
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.exit(main(sys.argv[1:]))
