"""`python -m quee` is `quee`."""

from quee.cli import main

main()
