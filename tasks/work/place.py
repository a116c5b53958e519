"""A project's verbs run only in its folder, where the files are that they read and write."""

import sys
from pathlib import Path

from quee.errors import UsageError

FILES = ("params.yaml", "dvc.yaml")
"""Files that every project has in its folder."""


def project_root() -> Path:
    """The current folder; raises UsageError naming the missing files where it is no project's folder."""
    root = Path.cwd()
    missing = [name for name in FILES if not (root / name).is_file()]
    if not missing:
        return root
    above = next((place for place in root.parents if all((place / name).is_file() for name in FILES)), None)
    where = f", {above}" if above else ""
    raise UsageError(f"no {' and no '.join(missing)} in {root}: run this in the project's folder{where}")


def end_elsewhere() -> None:
    """End the process with one line where the current folder is no project's folder."""
    try:
        project_root()
    except UsageError as error:
        print(f"quee: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
