"""Block `exits`: inputs of exit heads, and their fitting."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quee.settings.block import Block, Count, Seed


class Exits(Block):
    pooling: Literal["cls", "cls_mean"] = "cls_mean"
    """Input of a head: the class token alone, or with the mean patch token."""
    prefixes: Literal["mixed", "float"] = "mixed"
    """Prefixes whose states heads and embedding are fitted on. `mixed` draws a precision of the tree per sample and segment;
    `float` runs the float network."""
    draws: Count = 8
    """Passes over the training samples, each with new augmentation and new prefix precisions."""
    max_samples: Count | None = None
    augment: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 1.0
    """Strength of the L2 penalty: half of it times the sum of a head's squared weights is added to the cross-entropy
    summed over all states, in nats."""
    embedding: Annotated[int, Field(ge=0)] = 8
    """Principal components of the pooled state among the state features."""
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _without_training(cls, given: Any) -> Any:
        if isinstance(given, dict) and (gone := sorted({"epochs", "learning_rate"} & set(given))):
            raise ValueError(
                f"{' and '.join(gone)}: no longer a setting, since heads are fitted to the optimum; leave it out "
                "(weight_decay is the strength of the penalty)"
            )
        return given
