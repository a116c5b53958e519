"""Block `policies`: how policies are fitted."""

from typing import Annotated, Literal

from pydantic import Field

from quee.settings.block import Block, Seed, Share


class FittedQ(Block):
    """The policy `fitted_q`."""

    folds: Annotated[int, Field(ge=2, le=20)] = 4
    """Parts of the predictor split for cross-fitting."""
    knots: Annotated[int, Field(ge=2, le=64)] = 12
    """Number of trade-offs λ at which values are fitted; between them values are interpolated."""
    blend: Share | Literal["auto"] = 0.5
    """Weight of the fitted values in a decision; the plan's values have the rest. `auto` chooses it by gate and λ, from
    cross-fitting."""


class Policies(Block):
    """How policies are fitted."""

    first_step: Literal["rollout", "marginal"] = "rollout"
    """How `plan` chooses the first precision at gate 0."""
    fitted_q: FittedQ = FittedQ()
    """The policy `fitted_q`."""
    seed: Seed = 0
    """Seed of what is fitted."""
