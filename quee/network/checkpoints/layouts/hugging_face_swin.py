"""Hugging Face's Swin Transformer, versions 1 and 2."""

from typing import Any

from quee.network.checkpoints.layout import Config, Layout, Named, Size, State, rename
from quee.network.checkpoints.layouts.hugging_face import encoder, fixed_size, has_activation, number, refuse, side
from quee.network.checkpoints.layouts.sizes import swin, swin_of_weights, swin_v2
from quee.network.checkpoints.layouts.swin import downsampled_first

_RULES = (
    (r"^swin(?:v2)?\.", ""),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.(\d+)\.", r"layers_\1."),  # `layers.0` would become `blocks.0` below
    (
        r"\.attention\.(?:self\.|relative_position_bias\.)relative_position_bias_table$",
        ".attn.relative_position_bias_table",
    ),
    (r"\.attention\.(?:self|relative_position_bias)\.relative_position_index$", ".attn.relative_position_index"),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.self\.(logit_scale|relative_coords_table)$", r".attn.\1"),
    (r"^classifier\.", "head.fc."),
)


_OF_V2 = (
    (r"\.attention\.self\.query\.bias$", ".attn.q_bias"),
    (r"\.attention\.self\.value\.bias$", ".attn.v_bias"),
)
"""Keys have no bias, so the others' stay outside of the joint matrix."""


def convert_v2(state: State) -> State:
    return convert(rename(state, _OF_V2))


def convert(state: State) -> State:
    found = encoder(state, *_RULES)
    return downsampled_first({key.replace("layers_", "layers.", 1): value for key, value in found.items()})


def _keywords(config: Config, size: Size | None) -> dict[str, Any]:
    refuse(config, {"use_absolute_embeddings": True})
    has_activation(config, "gelu", "a Swin Transformer")
    return {
        "embed_dim": number(config, "embed_dim", 96),
        "depths": list(config.get("depths", (2, 2, 6, 2))),
        "num_heads": list(config.get("num_heads", (3, 6, 12, 24))),
        "mlp_ratio": number(config, "mlp_ratio", 4.0),
        "window_size": side(config, "window_size", 7),
        "patch_size": side(config, "patch_size", 4),
        "img_size": fixed_size(config, size),
        "in_chans": number(config, "num_channels", 3),
        "norm_eps": number(config, "layer_norm_eps", 1e-5),
    }


def configured(config: Config, state: State, size: Size | None) -> Named:
    return swin(_keywords(config, size))


def configured_v2(config: Config, state: State, size: Size | None) -> Named:
    more: dict[str, Any] = {"qkv_bias": bool(config.get("qkv_bias", True))}
    if any(windows := list(config.get("pretrained_window_sizes") or ())):
        more["pretrained_window_sizes"] = windows
    return swin_v2({**_keywords(config, size), **more})


LAYOUT = Layout(
    "Hugging Face Swin Transformer",
    r"(?:swin\.)?encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight",
    convert,
    unused=r"embeddings\.mask_token$|^decoder\.",
    named=swin_of_weights,
    model_types=("swin",),
    configured=configured,
)
V2 = Layout(
    "Hugging Face Swin Transformer V2",
    r"(?:swinv2\.)?encoder\.layers\.0\.blocks\.0\.attention\.self\.continuous_position_bias_mlp\.0\.weight",
    convert_v2,
    unused=r"embeddings\.mask_token$|^decoder\.",
    model_types=("swinv2",),
    configured=configured_v2,
)
