"""DVC's command line in a process that ends when `quee run` or the flow ends. Part of tasks/dvc.py."""

import sys

from tasks.lifeline import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    from dvc.cli import main

    sys.exit(main(sys.argv[1:]))
