"""Block `predictors`: the networks that predict error probabilities, and their training."""

from typing import Annotated

from pydantic import Field

from quee.settings.block import Block, Count, Positive, Seed


class Predictors(Block):
    """The networks that predict error probabilities, one per gate, and their training."""

    hidden: Count = 32
    """Units of the hidden layer."""
    epochs: Count = 200
    """Most passes over the predictor split."""
    batch_size: Count = 1024
    """Rows (sample, node) of a step."""
    learning_rate: Positive = 3e-3
    """Learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of AdamW."""
    patience: Count = 15
    """Epochs without a better loss on validation after which training stops."""
    seed: Seed = 0
    """Seed of the first weights and the order of rows."""
