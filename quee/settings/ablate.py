"""Block `ablate`: the grid of `quee ablate`."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from quee.settings.block import Block, Count, Listed, PrecisionName, Seed, Share
from quee.settings.paths import Considered

Axis = Literal[
    "clusters", "targets", "hidden", "features", "heads", "considered", "precisions", "gates", "first_step", "commit",
    "fitted_q", "reference",
]  # fmt: skip
AXES: tuple[Axis, ...] = get_args(Axis)
"""Axes of `quee ablate`, varied one at a time; `reference` adds methods that learn nothing."""


class Ablate(Block):
    """The grid of `quee ablate`: each axis changes one thing in the experiment's settings."""

    axes: Annotated[tuple[Axis, ...], Listed, Field(min_length=1)] = AXES
    """What is varied."""
    seeds: Annotated[int, Field(ge=3, le=100)] = 3
    """Repetitions of every point; targets, predictors and policies are fitted anew in each."""
    divide: Literal["none", "learning", "all"] = "learning"
    """Splits that each repetition divides anew. `learning`: predictor and validation; `all`: also test, for data so small
    that one test set tells little."""
    clusters: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Listed] = (1, 5, 10, 20, 50, 100, 150)
    """Values of `targets.clusters`."""
    targets: Annotated[tuple[Literal["labels", "neighbours", "p_label"], ...], Listed] = (
        "labels",
        "neighbours",
        "p_label",
    )
    """Targets instead of clusters: the errors themselves, their mean over nearest neighbours, or 1 - probability of the label."""
    neighbours: Count = 50
    """Number of neighbours whose errors `neighbours` averages."""
    hidden: Annotated[tuple[Count, ...], Listed] = (4, 8, 16, 64, 128)
    """Values of `predictors.hidden`."""
    heads: Annotated[tuple[Literal["mixed", "float"], ...], Listed] = ()
    """Other values of `exits.prefixes` to fit exit heads with; the network runs again for each."""
    considered: Annotated[tuple[Considered, ...], Listed] = (
        Considered(max_switches=0),
        Considered(max_switches=1),
        Considered(monotone="up"),
        Considered(monotone="down"),
        Considered(sample=8),
        Considered(sample=24),
    )
    """Subsets of the cached tree's paths; a sample of paths is drawn anew in each repetition."""
    precisions: Annotated[tuple[Annotated[tuple[PrecisionName, ...], Listed, Field(min_length=1)], ...], Listed] = ()
    """Sets of precisions to keep; by default each precision left out in turn, and each alone."""
    added: Annotated[tuple[PrecisionName, ...], Listed] = ()
    """References of `paths` to take into the tree, one at a time; the network runs again for each."""
    gates: Annotated[tuple[Annotated[tuple[Count, ...], Listed, Field(min_length=2)], ...], Listed] = ()
    """Sets of gates to keep, counted from 1, each with the last gate. By default each gate left out in turn, and every second
    gate."""
    blend: Annotated[tuple[Share | Literal["auto"], ...], Listed] = (0.5, 1.0, "auto")
    """Values of `policies.fitted_q.blend`."""
    points: Annotated[int, Field(ge=20, le=10_000)] = 60
    """Trade-offs λ in each sweep."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Replicates of the bootstrap."""
    seed: Seed = 0
    """Seed of divisions and repetitions."""
