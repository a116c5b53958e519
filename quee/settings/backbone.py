"""Block `backbone`: the network, its gates, and its training or weights."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from quee.settings.block import Block, Count, Listed, Positive, Seed, Share


class Augmentation(Block):
    """Random changes to training images; all off by default."""

    flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Shift by up to this many pixels."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Zoom by a factor in [1 - scale, 1 + scale]."""
    erase: Share = 0.0
    """Probability of blanking a random rectangle."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of mixup's beta distribution; 0 is off."""


class Backbone(Block):
    name: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    gates: Annotated[tuple[Count, ...], Listed] = (2, 4, 6, 8)
    """Number of blocks before each gate; the last is the depth of the backbone."""
    mode: Literal["train", "pretrained", "finetune", "linear_probe"] = "train"
    """`train`: random weights are trained on the training split; `pretrained`: weights are used as they are; `finetune`:
    weights are trained further; `linear_probe`: weights are frozen, and a new head is fitted on their features."""
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    """Name under which `quee weights add` keeps them; for every mode but `train`."""
    trained_blocks: Annotated[int, Field(ge=0)] | None = None
    """For `finetune`: number of last blocks that are trained, with the layers after them; by default the whole network is."""
    transfer_ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    """For `finetune`: learning rate of the pretrained weights, relative to the head's."""
    epochs: Count = 100
    batch_size: Count = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the cosine, for all weights."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights; 0 is off."""
    mixed_precision: Literal["auto", "bf16", "none"] = "auto"
    """Whether training computes products in bf16; `auto`: on a GPU that supports it."""
    augmentation: Augmentation = Augmentation()
    seed: Seed = 0

    @field_validator("gates")
    @classmethod
    def _rising(cls, gates: tuple[int, ...]) -> tuple[int, ...]:
        if not gates or list(gates) != sorted(set(gates)):
            raise ValueError("gates must rise strictly, as [2, 4, 6, 8]")
        return gates

    @model_validator(mode="after")
    def _fits_mode(self) -> "Backbone":
        if self.mode == "train" and self.weights is not None:
            raise ValueError("weights are for modes pretrained, finetune, linear_probe; mode is train")
        if self.mode != "train" and self.weights is None:
            raise ValueError(f"mode {self.mode} needs weights, a name given to `quee weights add`")
        if self.mode != "finetune" and self.trained_blocks is not None:
            raise ValueError(f"trained_blocks is for mode finetune; mode is {self.mode}")
        return self
