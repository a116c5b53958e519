"""Block `features`: contents of the feature cache."""

from quee.settings.block import Block


class Features(Block):
    embedding: bool = True
    """Whether state features include the compressed embedding."""
