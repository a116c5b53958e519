"""Block `predictors`: the networks that predict error probabilities, and their training."""

from typing import Annotated

from pydantic import Field

from quee.settings.block import Block, Count, Positive, Seed


class Predictors(Block):
    hidden: Count = 32
    epochs: Count = 200
    batch_size: Count = 1024
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    patience: Count = 15
    seed: Seed = 0
