"""Block `backbone`: the network, its gates, and its training or weights."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, model_validator

from quee.settings.block import Block, Count, Positive, Seed, Share


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


class Measured(Block):
    """Gates that stage `backbone` chooses (`quee.exits.gates`)."""

    auto: Annotated[int, Field(ge=1, le=64)] = 4
    """Number of gates, the last of which is the end of the backbone."""


def _gates(value: Any) -> Any:
    """A rising list as a tuple; `auto` and {auto: N} as `Measured`. Raises ValueError for anything else."""
    if isinstance(value, Measured):
        return value
    if value == "auto":
        return Measured()
    if isinstance(value, dict) and set(value) == {"auto"}:
        number = value["auto"]
        if type(number) is int and 1 <= number <= 64:
            return Measured(auto=number)
        raise ValueError(f"auto: {number!r} is not a number of gates from 1 to 64, as {{auto: 4}}")
    if not isinstance(value, list | tuple) or not all(type(gate) is int and gate > 0 for gate in value):
        raise ValueError("gates are numbers of blocks, as [2, 4, 6, 8], or chosen by measurement: auto, or {auto: 4}")
    if not value or list(value) != sorted(set(value)):
        raise ValueError("gates must rise strictly, as [2, 4, 6, 8]")
    return tuple(value)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Measured) else list(value)


class Backbone(Block):
    name: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    gates: Annotated[
        InstanceOf[tuple] | InstanceOf[Measured], BeforeValidator(_gates), PlainSerializer(_plain, when_used="json")  # type: ignore[type-arg]
    ] = (2, 4, 6, 8)
    """Number of blocks before each gate; the last is the depth of the backbone. `auto`, or `{auto: N}` for N gates instead of
    four, chooses them after training by the curve of early exits on training images."""
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

    @property
    def segments(self) -> int:
        """Number of gates and of segments."""
        return self.gates.auto if isinstance(self.gates, Measured) else len(self.gates)

    @property
    def fixed_gates(self) -> tuple[int, ...] | None:
        """The gates; None where they are chosen by measurement."""
        return None if isinstance(self.gates, Measured) else self.gates

    @model_validator(mode="after")
    def _fits_mode(self) -> "Backbone":
        if self.mode == "train" and self.weights is not None:
            raise ValueError("weights are for modes pretrained, finetune, linear_probe; mode is train")
        if self.mode != "train" and self.weights is None:
            raise ValueError(f"mode {self.mode} needs weights, a name given to `quee weights add`")
        if self.mode != "finetune" and self.trained_blocks is not None:
            raise ValueError(f"trained_blocks is for mode finetune; mode is {self.mode}")
        return self
