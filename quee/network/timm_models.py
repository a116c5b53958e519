"""What every network of timm has: its name, its configuration, and how it prepares images."""

from functools import cache

import timm
from torch import nn

from quee.data.preprocessing import Preprocessing, resized_by, spread

NO_HEAD = "this model has no classification head of its own; give num_classes among its kwargs"


@cache
def is_timm(name: str) -> bool:
    """Whether timm knows the name and, if it has one, the tag of its weights."""
    base, _, tag = name.partition(".")
    return timm.is_model(base) and (not tag or name in timm.list_pretrained(f"{base}.*"))


def is_headless(name: str) -> bool:
    """Whether timm's published network of a name has no classification head."""
    config = timm.get_pretrained_cfg(name) if is_timm(name) else None
    return config is not None and config.num_classes == 0


def timm_input(model: nn.Module, size: tuple[int, int] | None = None, channels: int | None = None) -> Preprocessing:
    """Preprocessing by timm's configuration of a network, which also says size and channels where they are not given."""
    config = timm.data.resolve_model_data_config(model)
    own, *sides = config["input_size"]
    channels = own if channels is None else channels
    means, deviations = spread(config["mean"], channels), spread(config["std"], channels)
    resize = resized_by(config["crop_mode"])
    return Preprocessing(
        size or tuple(sides), config["crop_pct"], config["interpolation"], means, deviations, channels, resize
    )
