"""Block `bundle`: policy and budget of the deployed classifier."""

from quee.settings.block import Block, Positive


class Bundle(Block):
    policy: str = "fitted_q"
    """A deployable entry of `quee.policies.registry`."""
    budget: Positive = 0.2
    """Default budget of the deployed classifier."""
