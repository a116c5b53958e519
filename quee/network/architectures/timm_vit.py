"""timm's VisionTransformers by timm's names, and two small ViTs of this project."""

from dataclasses import replace
from functools import partial
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing, sides, spread
from quee.network.timm_models import is_headless
from quee.network.timm_models import is_timm as knows
from quee.network.vision_transformer import ConvStem, TimmViT, adapted

__all__ = ["create", "is_headless", "knows"]


def create(name: str, **kwargs: Any) -> TimmViT:
    """The backbone of that name with random weights; `kwargs` go to timm's constructor."""
    build = {"vit_digits": vit_digits, "vit_fashion_mnist": vit_fashion_mnist}.get(name, partial(adapted, name))
    return build(**kwargs)


def _small_vit(input: Preprocessing, **kwargs: Any) -> TimmViT:
    kwargs = {"in_chans": input.channels, "img_size": input.size, "num_classes": 10, **kwargs}
    size, channels = sides(kwargs["img_size"]), kwargs["in_chans"]
    model = VisionTransformer(**{**kwargs, "img_size": size})
    mean, std = spread(input.mean, channels), spread(input.std, channels)
    return TimmViT(model, replace(input, size=size, channels=channels, mean=mean, std=std))


def vit_digits(**kwargs: Any) -> TimmViT:
    """A small ViT for 8×8 digits: 16 patches, dim 64, 8 blocks, about 0.27 M parameters."""
    size = {"patch_size": 2, "embed_dim": 64, "depth": 8, "num_heads": 4, "mlp_ratio": 2}
    backbone = _small_vit(Preprocessing((8, 8), mean=(0.305,), std=(0.376,)), **{**size, **kwargs})
    # With timm's deviation of 0.02, a network this small needs twice the epochs to learn positions.
    assert isinstance(backbone.pos_embed, Tensor)
    nn.init.normal_(backbone.pos_embed, std=0.3)
    return backbone


def vit_fashion_mnist(**kwargs: Any) -> TimmViT:
    """A small ViT for 28×28 greyscale images: convolutional stem to 16 patches, dim 128, 8 blocks, about 1.4 M parameters.

    With 16 patches it trains 3.2 times as fast on a CPU as with 49.
    """
    size = {"embed_dim": 128, "depth": 8, "num_heads": 4, "mlp_ratio": 3, "stem": (32, 64)}
    stem = tuple({**size, **kwargs}["stem"])
    kwargs = {name: value for name, value in {**size, **kwargs}.items() if name != "stem"}
    embed = partial(ConvStem, widths=stem)
    return _small_vit(
        Preprocessing((28, 28), mean=(0.286,), std=(0.353,)),
        patch_size=2 ** (len(stem) + 1),
        embed_layer=embed,
        **kwargs,
    )
