"""The project's verbs of `quee`."""
