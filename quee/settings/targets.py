"""Block `targets`: what an exit answers, and clusters and shrinkage of the error probabilities."""

from typing import Annotated

from pydantic import Field

from quee.settings.block import Block, Count, Listed, Seed


class Targets(Block):
    """What an exit answers, and the error probabilities by clusters."""

    ensemble: bool = True
    """Whether an exit answers with an ensemble of all heads visited, fitted on the predictor split, or with its own head
    alone. It has no effect where the feature cache keeps the most probable classes alone (more than 100 classes), or
    without samples in split `predictor`; stage `targets` then says so."""
    clusters: Annotated[int, Field(ge=1, le=1000)] = 20
    """K, the number of clusters of state features."""
    sweep: Annotated[tuple[Count, ...], Listed] = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100)
    """Numbers of clusters for which the calibration error is reported."""
    shrinkage: Annotated[float, Field(ge=0)] = 4.0
    """α: the path's mean error counts as this many samples in the error rate of each cluster."""
    per_node: Annotated[int, Field(ge=0)] = 64
    """Most nodes at a gate for which each node has clusters of its own; the nodes of a larger gate share clusters."""
    seed: Seed = 0
    """Seed of K-means."""
