"""Hugging Face's Swin Transformer, version 1."""

from quee.network.checkpoints.layout import Config, Layout, Named, Size, State
from quee.network.checkpoints.layouts.hugging_face import encoder, fixed_size, has_activation, number, refuse, side
from quee.network.checkpoints.layouts.sizes import swin, swin_of_weights
from quee.network.checkpoints.layouts.swin import downsampled_first

_RULES = (
    (r"^swin\.", ""),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.(\d+)\.", r"layers_\1."),  # `layers.0` would become `blocks.0` below
    (
        r"\.attention\.(?:self\.|relative_position_bias\.)relative_position_bias_table$",
        ".attn.relative_position_bias_table",
    ),
    (r"\.attention\.(?:self|relative_position_bias)\.relative_position_index$", ".attn.relative_position_index"),
    (r"^classifier\.", "head.fc."),
)


def convert(state: State) -> State:
    found = encoder(state, *_RULES)
    return downsampled_first({key.replace("layers_", "layers.", 1): value for key, value in found.items()})


def configured(config: Config, state: State, size: Size | None) -> Named:
    refuse(config, {"use_absolute_embeddings": True})
    has_activation(config, "gelu", "a Swin Transformer")
    kwargs = {
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
    return swin(kwargs)


LAYOUT = Layout(
    "Hugging Face Swin Transformer",
    r"(?:swin\.)?encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight",
    convert,
    unused=r"embeddings\.mask_token$|^decoder\.",
    named=swin_of_weights,
    model_types=("swin",),
    configured=configured,
)
