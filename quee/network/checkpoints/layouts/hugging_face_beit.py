"""Hugging Face's BEiT."""

import torch

from quee.errors import QueeError
from quee.network.checkpoints.layout import Config, Layout, Named, Size, State, rename
from quee.network.checkpoints.layouts.hugging_face import (
    ENCODER,
    activation,
    fixed_size,
    mlp_ratio,
    number,
    refuse,
    side,
)
from quee.network.checkpoints.layouts.sizes import beit, beit_of_weights

_RULES = (
    (r"^beit\.", ""),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.(?:attention\.attention\.)?relative_position_bias\.relative_position_", ".attn.relative_position_"),
    (r"^(?:encoder\.)?relative_position_bias\.", "rel_pos_bias."),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^classifier\.", "head."),
)


def convert(state: State) -> State:
    """Query, key and value become one matrix; only query and value have biases."""
    found = {
        key: value for key, value in rename(state, (*_RULES, *ENCODER)).items() if not key.endswith("position_index")
    }
    for key in [key for key in found if key.endswith(".attn.query.weight")]:
        block = key.removesuffix("query.weight")
        parts = [found.pop(f"{block}{part}.weight", None) for part in ("query", "key", "value")]
        if any(part is None for part in parts):
            raise QueeError(f"{block}key.weight or {block}value.weight is missing beside {key}")
        found[f"{block}qkv.weight"] = torch.cat([part for part in parts if part is not None])
        for part in ("query", "value"):
            if f"{block}{part}.bias" in found:
                found[f"{block}{part[0]}_bias"] = found.pop(f"{block}{part}.bias")
    return found


def configured(config: Config, state: State, size: Size | None) -> Named:
    refuse(config, {"use_shared_relative_position_bias": True})
    width = number(config, "hidden_size", 768)
    kwargs = {
        "embed_dim": width,
        "depth": number(config, "num_hidden_layers", 12),
        "num_heads": number(config, "num_attention_heads", 12),
        "mlp_ratio": mlp_ratio(number(config, "intermediate_size", 4 * width), width),
        "patch_size": side(config, "patch_size", 16),
        "img_size": fixed_size(config, size),
        "in_chans": number(config, "num_channels", 3),
        "init_values": number(config, "layer_scale_init_value", 0.1) or None,
        "use_rel_pos_bias": bool(config.get("use_relative_position_bias", False)),
        "use_abs_pos_emb": bool(config.get("use_absolute_position_embeddings", False)),
        "global_pool": "avg" if config.get("use_mean_pooling", True) else "token",
        "norm_eps": number(config, "layer_norm_eps", 1e-12),
    }
    if activation(config) != "gelu":
        raise QueeError(f"config.json: hidden_act {config['hidden_act']!r} is not run here; a BEiT's is gelu")
    return beit(kwargs)


def named(state: State) -> Named | None:
    """As shapes tell; ε is transformers' usual one."""
    found = beit_of_weights(state)
    return found and Named(found.name, {**found.kwargs, "norm_eps": 1e-12})


LAYOUT = Layout(
    "Hugging Face BEiT",
    r"(?:beit\.)?(?:encoder\.layer|layers)\.0\.lambda_1",
    convert,
    unused=r"embeddings\.mask_token$",
    named=named,
    model_types=("beit",),
    configured=configured,
)
