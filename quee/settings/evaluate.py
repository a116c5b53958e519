"""Block `evaluate`: sweeps, budgets, repetitions, guarantees."""

from typing import Annotated

from pydantic import AfterValidator, Field

from quee.settings.block import Block, Budget, Count, Listed, Positive, Seed, Share


def _points(value: float) -> float:
    if value < LEAST:
        raise ValueError(f"{value:g} points of accuracy; valid: from {LEAST:g} on, half a point is 0.5")
    return value


LEAST = 0.05
"""Least accuracy loss that is certified, in points. Before they were points, losses were shares: 0.005 was half a point."""
Points = Annotated[float, Field(le=100), AfterValidator(_points)]


class Certification(Block):
    """Guarantees, if `prepare` keeps a certification split."""

    delta: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Probability with which a guarantee may fail."""
    accuracy_losses: Annotated[tuple[Points, ...], Listed] = (0.5, 1.0, 2.0)
    """Limits on the points of accuracy lost to the float network."""


class Quality(Block):
    """Predictors of deliberately different quality, and other numbers of clusters; each entry is fitted once."""

    widths: Annotated[tuple[Count, ...], Listed] = (1, 4)
    """Hidden units."""
    samples: Annotated[tuple[Share, ...], Listed] = (0.02, 0.1)
    """Shares of the predictor split to learn from."""
    noise: Annotated[tuple[Positive, ...], Listed] = (0.5, 1.0, 2.0)
    """Standard deviations of noise on the logits."""
    clusters: Annotated[tuple[Count, ...], Listed] = (1, 5, 20, 50)
    """Numbers of clusters whose curves are computed."""


class Evaluate(Block):
    """Sweeps, budgets, repetitions and guarantees."""

    points: Annotated[int, Field(ge=100, le=10_000)] = 120
    """Number of trade-offs or thresholds in a sweep."""
    budgets: Annotated[tuple[Budget, ...], Listed, Field(min_length=1)] = (
        0.05,
        0.1,
        0.15,
        0.2,
        0.3,
        0.4,
        0.6,
        0.8,
        1.0,
    )
    """Mean costs at which methods are compared, 1 is the static w8a8 network."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """Seeds of targets, predictors and policies: the first is the stages' own, the others are fitted from the cache."""
    resplits: Annotated[int, Field(ge=0, le=1000)] = 0
    """Repetitions on random re-divisions of the held-out rows; targets and predictors are fitted anew."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Replicates of the bootstrap."""
    certification: Certification = Certification()
    """Guarantees."""
    quality: Quality = Quality()
    """Predictors of other quality."""
    seed: Seed = 0
    """Seed of the bootstrap and of what is made worse on purpose."""
