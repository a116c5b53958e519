"""Checks and preparation for `quee.fit`."""
