"""Hugging Face's DINOv2, with and without registers."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quee.errors import QueeError
from quee.network.checkpoints.layout import Config, Layout, Named, Size, State, beside, shape
from quee.network.checkpoints.layouts.hugging_face import activation, dimensions, encoder, mlp_ratio, number, side

_RULES = (
    (r"^dinov2(?:_with_registers)?\.", ""),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.w3."),
    (r"^classifier\.", "head."),
)
SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
DEPTHS = {"small": 12, "base": 12, "large": 24, "giant": 40}
HEADS = {"small": 6, "base": 12, "large": 16, "giant": 24}


def convert(state: State) -> State:
    """Both halves of a gated MLP's first layer become one layer, the gate first."""
    found = encoder(state, *_RULES)
    for key in [key for key in found if ".mlp.gate_proj." in key]:
        gate, up = found.pop(key), found.pop(key.replace("gate_proj", "up_proj"), None)
        if up is None:
            raise QueeError(f"{key.replace('gate_proj', 'up_proj')} is missing beside {key}")
        found[key.replace("gate_proj", "w12")] = torch.cat([gate, up])
    return found


def configured(config: Config, state: State, size: Size | None) -> Named:
    """Positions are resampled for the size of the images as transformers does when it runs the network."""
    common, patch = dimensions(config), side(config, "patch_size", 14)
    image = side(config, "image_size", 224)
    images = size or (image, image)
    if config.get("use_swiglu_ffn"):
        ratio = mlp_ratio(shape(state, "blocks.0.mlp.w12.weight", 2)[0], common["embed_dim"])
    else:
        ratio = number(config, "mlp_ratio", 4)
    registers = number(config, "num_register_tokens", 4) if config.get("model_type") == "dinov2_with_registers" else 0
    kwargs = {
        **common,
        "mlp_ratio": ratio,
        "patch_size": patch,
        "img_size": images[0] if images[0] == images[1] else list(images),
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "act_layer": activation(config),
        "norm_eps": number(config, "layer_norm_eps", 1e-6),
    }
    # The authors' names of gated MLPs and registers are those that timm looks for.
    table = _resampled(state["pos_embed"], patch, images, antialias=registers > 0) if "pos_embed" in state else None
    more = {} if table is None else {"pos_embed": table}
    found = _named(kwargs, registers, gated=bool(config.get("use_swiglu_ffn")))
    return Named(found.name, found.kwargs, {**state, **more})


def named(state: State) -> Named | None:
    """As shapes tell, at the backbone's usual image size; None for sizes whose number of heads is not known."""
    width, channels, patch, _ = shape(state, "patch_embed.proj.weight", 4)
    if width not in SIZES:
        return None
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    kwargs = {"embed_dim": width, "in_chans": channels, "patch_size": patch}
    return _named(kwargs, registers, gated="blocks.0.mlp.w12.weight" in state)


def _named(kwargs: Mapping[str, Any], registers: int, gated: bool) -> Named:
    width = kwargs["embed_dim"]
    size = "giant" if gated else SIZES.get(width, "small")
    name = f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m"
    implied = {
        "embed_dim": next(width for width, own in SIZES.items() if own == size),
        "depth": DEPTHS[size],
        "num_heads": HEADS[size],
        "mlp_ratio": 4 if size != "giant" else mlp_ratio(8192, 1536),
        "patch_size": 14,
        "in_chans": 3,
        "img_size": 224,
        "qkv_bias": True,
        "act_layer": "gelu",
        "norm_eps": 1e-6,
        "reg_tokens": 4 if registers else 0,
    }
    own = {**kwargs, "reg_tokens": registers}
    if gated:
        own.pop("act_layer", None)  # the gate is a SiLU
    return Named(name, beside(own, implied))


def _resampled(table: Tensor, patch: int, images: Size, antialias: bool) -> Tensor:
    """Positions (1, 1 + rows · rows, dim) for images of another size, as transformers resamples them."""
    grid, rows = (images[0] // patch, images[1] // patch), isqrt(table.shape[1] - 1)
    if grid == (rows, rows) or rows * rows + 1 != table.shape[1]:
        return table
    squares = table[:, 1:].unflatten(1, (rows, rows)).permute(0, 3, 1, 2)  # (1, dim, rows, rows)
    resampled = functional.interpolate(squares, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([table[:, :1], resampled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


LAYOUT = Layout(
    "Hugging Face DINOv2",
    r"(?:dinov2(?:_with_registers)?\.)?embeddings\.patch_embeddings\.projection\.weight",
    convert,
    also=r"encoder\.layer\.0\.layer_scale1\.lambda1",
    unused=r"embeddings\.mask_token$",
    named=named,
    model_types=("dinov2", "dinov2_with_registers"),
    configured=configured,
)
