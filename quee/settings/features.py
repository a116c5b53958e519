"""Block `features`: what the feature cache holds."""

from quee.settings.block import Block


class Features(Block):
    embedding: bool = True
    """Whether state features include the compressed embedding."""
