"""Prefect's command line in a process that ends when `make schedules` ends. Part of flows/schedules.py."""

import flows.quiet  # noqa: F401  first: Prefect reads its settings when imported
from tasks.work.lifeline import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    from prefect.cli import app

    app()
