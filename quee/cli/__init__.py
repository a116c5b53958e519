"""The library's verbs of `quee`."""
