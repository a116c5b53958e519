"""Block `exits`: inputs of exit heads, and their fitting."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quee.settings.block import Block, Count, Seed


class Exits(Block):
    """Inputs of exit heads, and their fitting."""

    pooling: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,80}$")] = "auto"
    """Input of a head. `auto` chooses it per gate on held-out training images. A name joins parts by `_`: `cls`, the class
    token; `mean` and `max` over all positions; `mean4x4` and `max4x4` over the cells of a grid of any rows × columns."""
    head: Literal["auto", "linear", "hidden"] = "auto"
    """Layers of a head: one linear layer, or a hidden layer before it. `auto` chooses per gate with the pooling."""
    hidden: Count = 128
    """Units of a hidden layer."""
    prefixes: Literal["mixed", "float"] = "mixed"
    """Prefixes whose states heads and embedding are fitted on. `mixed` draws a precision of the tree per sample and segment;
    `float` runs the float network."""
    draws: Count = 8
    """Passes over the training samples, each with new augmentation and new prefix precisions."""
    max_samples: Count | None = None
    """Most training samples that heads are fitted on; by default all."""
    augment: bool = True
    """Whether the backbone's augmentation changes the images of each pass."""
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strength of a linear head's L2 penalty: half of it times the sum of its squared weights is added to the cross-entropy
    summed over all states, in nats."""
    embedding: Annotated[int, Field(ge=0)] = 8
    """Principal components of the pooled state among the state features. They are those of the class token and the mean, or
    without a class token of mean and maximum, whatever the heads read."""
    seed: Seed = 0
    """Seed of the passes and of hidden layers."""

    @model_validator(mode="before")
    @classmethod
    def _without_training(cls, given: Any) -> Any:
        if isinstance(given, dict) and (gone := sorted({"epochs", "learning_rate"} & set(given))):
            raise ValueError(
                f"{' and '.join(gone)}: no longer a setting, since heads are fitted to the optimum; leave it out "
                "(weight_decay is the strength of the penalty)"
            )
        return given
