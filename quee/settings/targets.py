"""Block `targets`: clusters and shrinkage of the error probabilities."""

from typing import Annotated

from pydantic import Field

from quee.settings.block import Block, Count, Listed, Seed


class Targets(Block):
    clusters: Annotated[int, Field(ge=1, le=1000)] = 20
    sweep: Annotated[tuple[Count, ...], Listed] = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100)
    """Numbers of clusters for which the calibration error is reported."""
    shrinkage: Annotated[float, Field(ge=0)] = 4.0
    """α: so many samples' worth of a path's mean error pulls each cluster's."""
    per_node: Annotated[int, Field(ge=0)] = 64
    """Up to so many nodes at a gate each node has its own clusters; above, the gate's nodes share them."""
    seed: Seed = 0
