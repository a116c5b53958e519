"""Block `prepare`: the data set and its splits."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quee.settings.block import Block, Count, Seed, Share
from quee.settings.sets import sets_of


class Splits(Block):
    """Shares of the data per split; `calibration` is a number of training samples.

    `evaluation_set` says how an official evaluation set is used. `pooled`: pooled with the training set, and all splits
    are taken from the pool. `held_out`: all splits but `train` are taken from it, for a backbone that has seen the official
    training set. `test`: it is the test split, for a backbone trained here. A share is a fraction of the set that its split
    is taken from; the shares of a set sum to at most 1.
    """

    train: Share = 0.45
    calibration: Annotated[int, Field(ge=16, le=1024)] = 256
    predictor: Share = 0.25
    validation: Share = 0.10
    certification: Share = 0.0
    test: Share = 0.20
    evaluation_set: Literal["pooled", "held_out", "test"] = "pooled"

    @model_validator(mode="after")
    def _sums(self) -> "Splits":
        for names in sets_of(self.evaluation_set):
            total = sum(getattr(self, name) for name in names)
            if not total <= 1 + 1e-9:
                raise ValueError(f"shares of {', '.join(names)} sum to {total:g}; they may sum to at most 1")
        if min(self.train, self.predictor, self.validation, self.test) <= 0:
            raise ValueError("train, predictor, validation and test must each be above 0")
        return self


class Prepare(Block):
    dataset: str
    splits: Splits = Splits()
    limit: Count | None = None
    """Use only this many samples of each official set (a seeded, stratified choice)."""
    seed: Seed = 0
