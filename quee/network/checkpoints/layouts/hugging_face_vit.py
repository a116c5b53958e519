"""Hugging Face's ViT, and its DeiT, which has a distillation token."""

from quee.network.checkpoints.layout import Config, Layout, Named, Size, State
from quee.network.checkpoints.layouts.hugging_face import activation, encoder, vit_keywords, with_usual_eps
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
    kwargs = {
        **vit_keywords(config, size),
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "act_layer": activation(config),
        "reg_tokens": int("reg_token" in state),
    }
    return vit(kwargs, "deit" if "dist_token" in state else "vit")


def named(state: State) -> Named | None:
    return with_usual_eps(vit_of_weights(state))


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
