"""Hugging Face's ViT, and its DeiT, which has a distillation token."""

from quee.network.checkpoints.layout import Config, Layout, Named, Size, State
from quee.network.checkpoints.layouts.hugging_face import activation, encoder, fixed_size, mlp_ratio, number, side
from quee.network.checkpoints.layouts.sizes import vit, vit_of_weights

_RULES = (
    (r"^(?:vit|deit)\.", ""),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^(?:classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)


def convert(state: State) -> State:
    """A distillation token that no head reads is a register token, as which timm's network runs it."""
    found = encoder(state, *_RULES)
    if "dist_token" in found and "head_dist.weight" not in found:
        found["reg_token"] = found.pop("dist_token")
    return found


def configured(config: Config, state: State, size: Size | None) -> Named:
    width = number(config, "hidden_size", 768)
    kwargs = {
        "embed_dim": width,
        "depth": number(config, "num_hidden_layers", 12),
        "num_heads": number(config, "num_attention_heads", 12),
        "patch_size": side(config, "patch_size", 16),
        "img_size": fixed_size(config, size),
        "in_chans": number(config, "num_channels", 3),
        "mlp_ratio": mlp_ratio(number(config, "intermediate_size", 4 * width), width),
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "act_layer": activation(config),
        "norm_eps": number(config, "layer_norm_eps", 1e-12),
        "reg_tokens": int("reg_token" in state),
    }
    return vit(kwargs, "deit" if "dist_token" in state else "vit")


def named(state: State) -> Named | None:
    """As shapes tell; ε is transformers' usual one."""
    found = vit_of_weights(state)
    return found and Named(found.name, {**found.kwargs, "norm_eps": 1e-12})


LAYOUT = Layout(
    "Hugging Face ViT or DeiT",
    r"(?:(?:vit|deit)\.)?embeddings\.patch_embeddings\.projection\.weight",
    convert,
    also=r"(?:encoder\.layer|(?:vit|deit)\.layers)\.0\.layernorm_before\.weight",
    unused=r"pooler\.|embeddings\.mask_token$|^decoder\.",
    named=named,
    model_types=("vit", "deit"),
    configured=configured,
)
