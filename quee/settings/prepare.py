"""Block `prepare`: the data set and its splits."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quee.settings.block import Block, Count, Seed, Share
from quee.settings.sets import sets_of


class Splits(Block):
    """Shares of the data per split; `calibration` is a number of training samples.

    `evaluation_set` says how an official evaluation set is used. `pooled`: pooled with the training set, and all splits
    are taken from the pool. `held_out`: all splits but `train` are taken from it, for a backbone that has seen the official
    training set. `test`: it is the test split, for a backbone trained here. `never_seen`: the test split is taken from it;
    predictor, validation and certification are taken from the training samples that the weights have not seen, and `train`
    from those that they have, as the weights record them. A share is a fraction of the set that its split
    is taken from; the shares of a set sum to at most 1.

    `folds` cross-fits small held-out sets. The samples of predictor, certification and test are cut into so many folds. In
    each rotation another fold is the test split and the other folds are divided by their shares, so every one of these
    samples is tested once, by what was fitted without it. Validation is the same in every rotation and is never tested,
    because what the rotations share, such as the tree, is chosen on it. 0 means one fixed test split.
    """

    train: Share = 0.45
    """Fits backbone and exit heads."""
    calibration: Annotated[int, Field(ge=16, le=1024)] = 256
    """Number of training samples that fit the quantizers."""
    predictor: Share = 0.25
    """Fits targets, predictors and learned policies."""
    validation: Share = 0.10
    """Chooses operating points."""
    certification: Share = 0.0
    """Certifies guarantees; has no other use."""
    test: Share = 0.20
    """Is reported."""
    evaluation_set: Literal["pooled", "held_out", "test", "never_seen"] = "pooled"
    """Use of the official evaluation set, as above."""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Number of folds, as above; 0 for one fixed test split."""

    @model_validator(mode="after")
    def _sums(self) -> "Splits":
        for names in sets_of(self.evaluation_set):
            total = sum(getattr(self, name) for name in names)
            if not total <= 1 + 1e-9:
                raise ValueError(f"shares of {', '.join(names)} sum to {total:g}; they may sum to at most 1")
        if min(self.train, self.predictor, self.validation, self.test) <= 0:
            raise ValueError("train, predictor, validation and test must each be above 0")
        return self

    @model_validator(mode="after")
    def _whole_folds(self) -> "Splits":
        """Each fold is the test split once, so the share of test is that of a fold."""
        if not self.folds:
            return self
        if self.folds == 1:
            raise ValueError("folds: 1; valid: 0 for a fixed test split, or 2 to 20")
        if self.evaluation_set in ("test", "never_seen"):
            raise ValueError(
                f"folds: with evaluation_set {self.evaluation_set!r} the official evaluation set is the test split; "
                "valid: 'held_out', 'pooled'"
            )
        fold = (self.predictor + self.certification) / (self.folds - 1)
        if abs(self.test - fold) > 0.01 * fold:
            raise ValueError(
                f"test: {self.test:g}; with {self.folds} folds it must be one of {self.folds} equal parts of predictor, "
                f"certification and test: {fold:.3g} beside the other shares (validation is the same in every rotation, "
                "and is not tested)"
            )
        return self


class Prepare(Block):
    """The data set and its division."""

    dataset: str
    """Name under which `quee data add` keeps it."""
    splits: Splits = Splits()
    """Shares of the splits."""
    limit: Count | None = None
    """Use only this many samples of each official set (a seeded, stratified choice)."""
    seed: Seed = 0
    """Seed of the division."""
