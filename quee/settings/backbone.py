"""Block `backbone`: the network, its gates, and its training or weights."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, model_validator

from quee.settings.block import Block, Count, Positive, Seed, Share


class Augmentation(Block):
    """Random changes to training images; all off by default."""

    flip: bool = False
    """Mirror left and right, half of the images."""
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Shift by up to this many pixels; by as large a part of smaller images (`backbone.sizes`)."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Zoom by a factor in [1 - scale, 1 + scale]."""
    erase: Share = 0.0
    """Probability of blanking a random rectangle."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Brightness, contrast and saturation times factors in [1 - colour, 1 + colour]."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of mixup's beta distribution; 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of CutMix's beta distribution; 0 is off. With mixup, half of the mixed batches get either."""
    mixed: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Probability that a batch is mixed, by mixup or CutMix."""


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


def _sizes(value: Any) -> Any:
    """Shares by side, small ones first; sides may be text, as in JSON. Raises ValueError for anything else."""
    if value is None:
        return None
    sides = (
        {int(side) if isinstance(side, str) and side.isdecimal() else side: value[side] for side in value}
        if isinstance(value, dict)
        else {}
    )
    whole = all(type(side) is int and side > 0 for side in sides)
    if not sides or not whole or not all(type(part) in (int, float) and part > 0 for part in sides.values()):
        raise ValueError(
            "sides of images in pixels, each with its share of the training, as {32: 0.25, 48: 0.4, 64: 0.35}"
        )
    if abs(sum(sides.values()) - 1) > 1e-9:
        raise ValueError(f"shares sum to {sum(sides.values()):g}; they must sum to 1")
    return {side: float(sides[side]) for side in sorted(sides)}


EPOCHS = 100
"""Passes over the training split where neither these nor a number of images are given."""


class Backbone(Block):
    """The network, its gates, and its training or weights."""

    name: str
    """Name of the architecture, as `quee.create_backbone` takes it."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keywords of the architecture, such as `img_size` and `preprocessing`; weights bring their own."""
    gates: Annotated[
        InstanceOf[tuple] | InstanceOf[Measured], BeforeValidator(_gates), PlainSerializer(_plain, when_used="json")  # type: ignore[type-arg]
    ] = (2, 4, 6, 8)
    """Number of blocks before each gate; the last is the depth of the backbone. `auto`, or `{auto: N}` for N gates instead of
    four, chooses them after training by the curve of early exits on validation images."""
    mode: Literal["train", "pretrained", "finetune", "linear_probe"] = "train"
    """`train`: the whole network is trained on the training split, from random weights or from `weights`; `pretrained`:
    weights are used as they are; `finetune`: weights are trained further, at a fraction of the head's learning rate;
    `linear_probe`: weights are frozen, and a new head is fitted on their features."""
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    """Name under which `quee weights add` keeps them. Needed by every mode but `train`, which may begin with them."""
    trained_blocks: Annotated[int, Field(ge=0)] | None = None
    """For `finetune`: number of last blocks that are trained, with the layers after them; by default the whole network is."""
    transfer_ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    """For `finetune`: learning rate of the pretrained weights, relative to the head's."""
    epochs: Count | None = None
    """Passes over the training split; 100 unless `images` is given."""
    images: Count | None = None
    """Instead of epochs: number of images to train on in all, rounded up to whole batches."""
    sizes: Annotated[dict[int, float] | None, BeforeValidator(_sizes)] = None
    """Small images first: sides of square images in pixels up to that of the backbone, each with its share of the steps.
    By default all images have the backbone's size."""
    drawn: bool = False
    """Whether to train on images drawn without end, none of them twice, from the sources of the data set's training images;
    for data sets that are drawn. An epoch is then as many images as the training split has."""
    batch_size: Count = 64
    """Images of a training step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` has a momentum of 0.9."""
    learning_rate: Positive = 1e-3
    """Largest learning rate, after the warm-up; it falls along a cosine."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the cosine, for all weights."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decay of weight matrices; biases and norms do not decay."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    """Epochs in which the learning rate rises from 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over all classes."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights; 0 is off."""
    mixed_precision: Literal["auto", "bf16", "none"] = "auto"
    """Whether training computes products in bf16; `auto`: on a GPU or CPU that does so natively, unless the network is so
    small that it runs on one thread. `backbone.json` records what was done."""
    augmentation: Augmentation = Augmentation()
    """Random changes to training images."""
    seed: Seed = 0
    """Seed of the first weights, the order of images and their changes."""

    @property
    def segments(self) -> int:
        """Number of gates and of segments."""
        return self.gates.auto if isinstance(self.gates, Measured) else len(self.gates)

    @property
    def fixed_gates(self) -> tuple[int, ...] | None:
        """The gates; None where they are chosen by measurement."""
        return None if isinstance(self.gates, Measured) else self.gates

    @property
    def trains(self) -> bool:
        """Whether layers of the network itself are trained."""
        return self.mode in ("train", "finetune")

    @model_validator(mode="before")
    @classmethod
    def _length(cls, values: Any) -> Any:
        """The length of training: `EPOCHS` where nothing is said, so that `epochs` is None with `images` alone."""
        if isinstance(values, dict) and values.get("epochs") is None and values.get("images") is None:
            return {**values, "epochs": EPOCHS}
        return values

    @model_validator(mode="after")
    def _fits_mode(self) -> "Backbone":
        if self.mode != "train" and self.weights is None:
            raise ValueError(f"mode {self.mode} needs weights, a name given to `quee weights add`")
        if self.mode != "finetune" and self.trained_blocks is not None:
            raise ValueError(f"trained_blocks is for mode finetune; mode is {self.mode}")
        if self.epochs is not None and self.images is not None:
            raise ValueError(f"epochs: {self.epochs} and images: {self.images}; give one of them")
        mixes = {f"augmentation.{name}": getattr(self.augmentation, name) for name in ("mixup", "cutmix")}
        for name, value in {"sizes": self.sizes, "drawn": self.drawn, **mixes}.items():
            if value and not self.trains:
                raise ValueError(f"{name} is for modes train and finetune; mode is {self.mode}")
        if self.augmentation.mixed < 1 and not any(mixes.values()):
            raise ValueError(f"augmentation.mixed: {self.augmentation.mixed:g}, but neither mixup nor cutmix is on")
        return self
