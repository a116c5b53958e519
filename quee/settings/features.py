"""Block `features`: contents of the feature cache."""

from quee.settings.block import Block


class Features(Block):
    """Contents of the feature cache."""

    embedding: bool = True
    """Whether state features include the compressed embedding."""
