"""`python -m quee` is `quee`."""

from quee.cli.main import main

main()
