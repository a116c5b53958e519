"""Hugging Face's BEiT."""

from quee.network.checkpoints.layout import Config, Layout, Named, Size, State
from quee.network.checkpoints.layouts.hugging_face import (
    encoder,
    has_activation,
    number,
    refuse,
    vit_keywords,
    with_usual_eps,
)
from quee.network.checkpoints.layouts.sizes import beit, beit_of_weights

_RULES = (
    (r"^beit\.", ""),
    (r"\.(?:attention\.attention\.)?relative_position_bias\.relative_position_", ".attn.relative_position_"),
    (r"^(?:encoder\.)?relative_position_bias\.", "rel_pos_bias."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.bias$", ".attn.q_bias"),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.bias$", ".attn.v_bias"),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^classifier\.", "head."),
)


def convert(state: State) -> State:
    """Query, key and value become one matrix; only query and value have biases, which stay outside of it."""
    return {key: value for key, value in encoder(state, *_RULES).items() if not key.endswith("position_index")}


def configured(config: Config, state: State, size: Size | None) -> Named:
    refuse(config, {"use_shared_relative_position_bias": True})
    has_activation(config, "gelu", "a BEiT")
    kwargs = {
        **vit_keywords(config, size),
        "init_values": number(config, "layer_scale_init_value", 0.1) or None,
        "use_rel_pos_bias": bool(config.get("use_relative_position_bias", False)),
        "use_abs_pos_emb": bool(config.get("use_absolute_position_embeddings", False)),
        "global_pool": "avg" if config.get("use_mean_pooling", True) else "token",
    }
    return beit(kwargs)


def named(state: State) -> Named | None:
    return with_usual_eps(beit_of_weights(state))


LAYOUT = Layout(
    "Hugging Face BEiT",
    r"(?:beit\.)?(?:encoder\.layer|layers)\.0\.lambda_1",
    convert,
    unused=r"embeddings\.mask_token$",
    named=named,
    model_types=("beit",),
    configured=configured,
)
