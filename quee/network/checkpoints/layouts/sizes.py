"""timm's names for networks of common sizes, by shapes of weights or by configurations."""

import re
from collections.abc import Iterable, Mapping
from math import isqrt, log2
from typing import Any

from torch import Tensor

from quee.network.architectures import is_backbone
from quee.network.checkpoints.layout import Named, State, beside, count, shape

PATCHES = "patch_embed.proj.weight"
VITS = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, blocks and heads of Vision Transformers, which have 4 times the width inside their MLPs."""
FAMILIES = {
    "vit": "vit_{}_patch{}_{}",
    "deit": "deit_{}_distilled_patch{}_{}",
    "siglip": "vit_{}_patch{}_siglip_{}",
}
"""timm's names by size, patch and image: of plain ones, of those with a distillation token and two heads, and of those with
attention pooling."""
_VIT = {"in_chans": 3, "mlp_ratio": 4.0, "qkv_bias": True, "act_layer": "gelu", "norm_eps": 1e-6, "reg_tokens": 0}


def vit(kwargs: Mapping[str, Any], family: str = "vit") -> Named:
    """The VisionTransformer of these keywords, by the name that leaves the fewest of them to be said.

    `kwargs` have `embed_dim`, `depth`, `num_heads`, `patch_size` and `img_size`, and whatever differs from `_VIT`; `family`
    is one of `FAMILIES`.
    """
    own = tuple(kwargs[key] for key in ("embed_dim", "depth", "num_heads"))
    size = next((name for name, known in VITS.items() if known == own), "base")
    told = (size, kwargs["patch_size"], kwargs["img_size"])
    for size, patch, image in (told, (told[0], 16, 224), ("base", 16, 224)):
        name = FAMILIES[family].format(size, patch, image)
        if is_backbone(name):
            break
    width, depth, heads = VITS[size]
    implied = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "img_size": image}
    return Named(name, beside(kwargs, {**_VIT, **implied}))


def vit_of_weights(state: State) -> Named | None:
    """The VisionTransformer of weights under timm's names; None for sizes whose number of heads is not known."""
    patches, table = state.get(PATCHES), state.get("pos_embed")
    if patches is None or patches.dim() != 4 or table is None or table.dim() != 3:
        return None
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    prefix = registers + sum(key in state for key in ("cls_token", "dist_token"))
    depth, grid = count(state, r"blocks\.(\d+)\."), isqrt(max(table.shape[1] - prefix, 0))
    own = next((known for known in VITS.values() if known[:2] == (patches.shape[0], depth)), None)
    if own is None or grid * grid + prefix != table.shape[1] or patches.shape[2] != patches.shape[3]:
        return None
    kwargs = dict(zip(("embed_dim", "depth", "num_heads"), own, strict=True)) | {"reg_tokens": registers}
    family = "deit" if "dist_token" in state else "siglip" if "attn_pool.latent" in state else "vit"
    return vit({**kwargs, **_patched(patches, grid)}, family)


def _patched(patches: Tensor, grid: int) -> dict[str, Any]:
    """Keywords that an embedding (dim, channels, height, width) of a square grid of patches tells."""
    return {"patch_size": patches.shape[2], "img_size": grid * patches.shape[2], "in_chans": patches.shape[1]}


RESNETS = {
    "resnet18": ((2, 2, 2, 2), (64, 64)),
    "resnet34": ((3, 4, 6, 3), (64, 64)),
    "resnet26": ((2, 2, 2, 2), (64, 64)),
    "resnet50": ((3, 4, 6, 3), (64, 64)),
    "resnet101": ((3, 4, 23, 3), (64, 64)),
    "resnet152": ((3, 8, 36, 3), (64, 64)),
    "resnext50_32x4d": ((3, 4, 6, 3), (128, 4)),
    "wide_resnet50_2": ((3, 4, 6, 3), (128, 128)),
    "resnext101_32x4d": ((3, 4, 23, 3), (128, 4)),
    "resnext101_32x8d": ((3, 4, 23, 3), (256, 8)),
    "resnext101_64x4d": ((3, 4, 23, 3), (256, 4)),
    "wide_resnet101_2": ((3, 4, 23, 3), (128, 128)),
}
"""Blocks in the stages, and outputs and inputs of the first block's second convolution."""
PLAIN = ("resnet18", "resnet34")
"""ResNets without bottlenecks."""


def resnet(state: State) -> Named | None:
    """The ResNet of weights under timm's names, which are torchvision's; None for another stem, or unknown groups."""
    first, second = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    if first is None or second is None or tuple(first.shape[:1] + first.shape[2:]) != (64, 7, 7):
        return None
    layers = depths(state, "layer{}", range(1, 5))
    plain, own = "layer1.0.conv3.weight" not in state, tuple(second.shape[:2])
    known = {name: said for name, said in RESNETS.items() if (name in PLAIN) == plain}
    kwargs: dict[str, Any] = {} if first.shape[1] == 3 else {"in_chans": first.shape[1]}
    if name := next((name for name, said in known.items() if said == (layers, own)), ""):
        return Named(name, kwargs)
    last = f"conv{2 if plain else 3}"
    channels = [shape(state, f"layer{i}.0.{last}.weight", 4)[0] // (1 if plain else 4) for i in range(1, 5)]
    if own != (channels[0], channels[0]):
        return None
    return Named("resnet18" if plain else "resnet50", {**kwargs, "layers": list(layers), "channels": channels})


def depths(state: State, stage: str, numbers: Iterable[int]) -> tuple[int, ...]:
    """Blocks in the stages, whose names have their number in place of `{}`."""
    return tuple(count(state, rf"{re.escape(stage.format(number))}\.(\d+)\.") for number in numbers)


CONVNEXTS = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
"""Blocks and widths of the stages of ConvNeXts."""


def convnext(state: State) -> Named | None:
    """The ConvNeXt (version 1 or 2) of weights under timm's names; None without its stem of one convolution."""
    stem = state.get("stem.0.weight")
    if stem is None or stem.dim() != 4:
        return None
    stages = range(count(state, r"stages\.(\d+)\."))
    blocks = depths(state, "stages.{}.blocks", stages)
    widths = tuple(shape(state, f"stages.{stage}.blocks.0.norm.weight", 1)[0] for stage in stages)
    family = "convnextv2" if any(key.endswith(".mlp.grn.weight") for key in state) else "convnext"
    fitting = (
        size for size, known in CONVNEXTS.items() if known == (blocks, widths) and is_backbone(f"{family}_{size}")
    )
    size = next(fitting, "tiny")
    kwargs = {"depths": list(blocks), "dims": list(widths), "in_chans": stem.shape[1], "patch_size": stem.shape[2]}
    kwargs["conv_mlp"] = state["stages.0.blocks.0.mlp.fc1.weight"].dim() == 4
    implied = {"depths": list(CONVNEXTS[size][0]), "dims": list(CONVNEXTS[size][1]), "in_chans": 3, "patch_size": 4}
    implied["conv_mlp"] = size in ("atto", "femto", "pico", "nano")
    return Named(f"{family}_{size}", beside(kwargs, implied))


SWINS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
"""Width of the first stage, blocks and heads of the stages of Swin Transformers."""


def swin(kwargs: Mapping[str, Any]) -> Named:
    """The Swin Transformer of these keywords: `embed_dim`, `depths`, `num_heads`, `window_size`, `patch_size`, `img_size`."""
    size = _swin_size(kwargs)
    if kwargs["window_size"] == 12 and size in ("base", "large"):
        return _swin(f"swin_{size}_patch4_window12_384", size, kwargs, 12, 384)
    return _swin(f"swin_{size}_patch4_window7_224", size, kwargs, 7, 224)


def swin_v2(kwargs: Mapping[str, Any]) -> Named:
    """The Swin Transformer V2 of these keywords: those of `swin`, and whatever else differs from the usual ones."""
    size = _swin_size(kwargs)
    for window, image in ((kwargs["window_size"], kwargs["img_size"]), (8, 256), (12, 192)):
        name = f"swinv2_{size}_window{window}_{image}"
        if is_backbone(name):
            break
    return _swin(name, size, kwargs, window, image)


def _swin_size(kwargs: Mapping[str, Any]) -> str:
    own = (kwargs["embed_dim"], tuple(kwargs["depths"]), tuple(kwargs["num_heads"]))
    return next((name for name, known in SWINS.items() if known == own), "tiny")


def _swin(name: str, size: str, kwargs: Mapping[str, Any], window: int, image: int) -> Named:
    width, blocks, heads = SWINS[size]
    implied = {"embed_dim": width, "depths": list(blocks), "num_heads": list(heads), "mlp_ratio": 4.0, "in_chans": 3}
    implied |= {"patch_size": 4, "window_size": window, "img_size": image, "norm_eps": 1e-5, "qkv_bias": True}
    return Named(name, beside(kwargs, implied))


def swin_of_weights(state: State) -> Named | None:
    """The Swin Transformer of weights under timm's names; None where a part is missing.

    The size of the images is that which the last stage sees as one window.
    """
    patches, table = state.get(PATCHES), state.get("layers.0.blocks.0.attn.relative_position_bias_table")
    if patches is None or table is None or patches.dim() != 4:
        return None
    tables = _of_stages(state, "relative_position_bias_table")
    return swin(_swin_keywords(state, patches, [table.shape[1] for table in tables], (isqrt(table.shape[0]) + 1) // 2))


def swin_v2_of_weights(state: State) -> Named | None:
    """The Swin Transformer V2 of weights under timm's names, whose tables of coordinates tell the window.

    None without the tables, which timm does not save, and where a smaller window was trained first. The tables are left
    out. The size of the images is that which the last stage sees as one window.
    """
    patches, table = state.get(PATCHES), state.get("layers.0.blocks.0.attn.relative_coords_table")
    if patches is None or table is None or patches.dim() != 4 or table.dim() != 4:
        return None
    if abs(float(table.max()) - log2(9) / 3) > 1e-4:  # 8, in the logarithmic scale, at the end of the own window
        return None
    heads = [len(scale) for scale in _of_stages(state, "logit_scale")]
    found = swin_v2(_swin_keywords(state, patches, heads, (table.shape[1] + 1) // 2))
    kept = {key: value for key, value in state.items() if not key.endswith(".relative_coords_table")}
    return Named(found.name, found.kwargs, kept)


def _of_stages(state: State, name: str) -> list[Tensor]:
    """A weight of the first attention of each stage."""
    keys = (f"layers.{stage}.blocks.0.attn.{name}" for stage in range(count(state, r"layers\.(\d+)\.")))
    return [state[key] for key in keys if key in state]


def _swin_keywords(state: State, patches: Tensor, heads: list[int], window: int) -> dict[str, Any]:
    blocks = list(depths(state, "layers.{}.blocks", range(count(state, r"layers\.(\d+)\."))))
    kwargs = {"embed_dim": patches.shape[0], "depths": blocks, "num_heads": heads, "window_size": window}
    return {**kwargs, **_patched(patches, window * 2 ** (len(blocks) - 1))}


_BEIT = {
    "in_chans": 3,
    "mlp_ratio": 4.0,
    "init_values": 0.1,
    "use_rel_pos_bias": True,
    "use_abs_pos_emb": False,
    "global_pool": "avg",
    "norm_eps": 1e-6,
}


def beit(kwargs: Mapping[str, Any]) -> Named:
    """The BEiT of these keywords: those of `vit`, and whatever differs from the usual ones."""
    own = tuple(kwargs[key] for key in ("embed_dim", "depth", "num_heads"))
    size = "large" if own == VITS["large"] else "base"
    image = kwargs["img_size"] if kwargs["img_size"] in (384, 512) else 224
    name = next(name for name in (f"beit_{size}_patch16_{image}", f"beit_{size}_patch16_224") if is_backbone(name))
    implied = dict(zip(("embed_dim", "depth", "num_heads"), VITS[size], strict=True))
    usual: dict[str, Any] = {**_BEIT, **implied, "patch_size": 16, "img_size": int(name.rpartition("_")[2])}
    if size == "large":
        usual["init_values"] = 1e-5
    return Named(name, beside(kwargs, usual))


def beit_of_weights(state: State) -> Named | None:
    """The BEiT of weights under timm's names, with a table of relative positions in each block; None for others."""
    patches, table = state.get(PATCHES), state.get("blocks.0.attn.relative_position_bias_table")
    if patches is None or table is None or patches.dim() != 4:
        return None
    kwargs = {"embed_dim": patches.shape[0], "depth": count(state, r"blocks\.(\d+)\."), "num_heads": table.shape[1]}
    grid = (isqrt(max(table.shape[0] - 3, 0)) + 1) // 2  # (2 rows - 1)² pairs of patches, and 3 with the class token
    more = {"global_pool": "avg" if "fc_norm.weight" in state else "token", "use_abs_pos_emb": "pos_embed" in state}
    return beit({**kwargs, **_patched(patches, grid), **more})
