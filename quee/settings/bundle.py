"""Block `bundle`: policy and budget of the deployed classifier."""

from quee.settings.block import Block, Budget


class Bundle(Block):
    """Policy and budget of the deployed classifier."""

    policy: str = "auto"
    """A deployable entry of `quee.policies.registry`. `auto` takes the best of all of them by budget."""
    budget: Budget = 0.2
    """Default budget of the deployed classifier."""
