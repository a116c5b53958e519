"""Block `bundle`: policy and budget of the deployed classifier."""

from typing import Literal

from quee.settings.block import Block, Positive


class Bundle(Block):
    policy: Literal["plan", "fitted_q"] = "fitted_q"
    budget: Positive = 0.2
    """The budget the deployed classifier runs at unless told otherwise."""
