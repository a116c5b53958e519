"""Names and settings that several networks of Hugging Face's transformers share."""

from collections.abc import Mapping, Sequence
from typing import Any

from quee.errors import QueeError
from quee.network.checkpoints.layout import Config, Named, Size, State, join, rename

ENCODER = (
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention|self)\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
"""Parts of Vision Transformers, as files have them, and as networks of transformers 5 have them in memory."""
PARTS = ("query", "key", "value")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Activations by transformers' names, with timm's."""


USUAL_EPS = 1e-12
"""ε of LayerNorm in transformers' ViT and its relatives, which shapes of weights do not tell."""


def encoder(state: State, *rules: tuple[str, str]) -> State:
    """The names of a Vision Transformer by these rules and those of `ENCODER`, with query, key and value joined."""
    return join(rename(state, (*rules, *ENCODER)), PARTS)


def number(config: Config, key: str, usual: float | None = None) -> Any:
    """A number of a configuration; raises QueeError for anything else, and for a missing one without a usual value."""
    value = config.get(key, usual)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise QueeError(f"config.json: {key} must be a number; got {value!r}")
    return value


def side(config: Config, key: str, usual: int | None = None) -> int:
    """The side of a square in pixels, given as a number or twice; raises QueeError for anything else."""
    value = config.get(key, usual)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise QueeError(f"config.json: {key} must be the side of a square in pixels; got {value!r}")
    return value


def activation(config: Config) -> str:
    """timm's name of the activation; raises QueeError for one that no backbone here has."""
    name = str(config.get("hidden_act", "gelu"))
    if name not in ACTIVATIONS:
        raise QueeError(f"config.json: hidden_act {name!r} is not run here; run are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def has_activation(config: Config, only: str, whose: str) -> None:
    """Raises QueeError for another activation than the only one that a network has; `whose` names the network."""
    if activation({"hidden_act": only, **config}) != only:
        raise QueeError(f"config.json: hidden_act {config['hidden_act']!r} is not run here; {whose}'s is {only}")


def dimensions(config: Config) -> dict[str, Any]:
    """Width, depth, heads and channels of a Vision Transformer."""
    return {
        "embed_dim": number(config, "hidden_size", 768),
        "depth": number(config, "num_hidden_layers", 12),
        "num_heads": number(config, "num_attention_heads", 12),
        "in_chans": number(config, "num_channels", 3),
    }


def vit_keywords(config: Config, size: Size | None) -> dict[str, Any]:
    """The keywords that ViT and BEiT share: `dimensions`, patches, images, hidden channels and ε."""
    found = dimensions(config)
    width = found["embed_dim"]
    return {
        **found,
        "mlp_ratio": mlp_ratio(number(config, "intermediate_size", 4 * width), width),
        "patch_size": side(config, "patch_size", 16),
        "img_size": fixed_size(config, size),
        "norm_eps": number(config, "layer_norm_eps", USUAL_EPS),
    }


def with_usual_eps(found: Named | None) -> Named | None:
    """The backbone that shapes tell, with transformers' usual ε."""
    return found and Named(found.name, {**found.kwargs, "norm_eps": USUAL_EPS})


def refuse(config: Config, wrong: Mapping[str, object]) -> None:
    """Raises QueeError naming the first entry that has a value no backbone here has."""
    for key, value in wrong.items():
        if config.get(key) == value:
            raise QueeError(f"config.json: {key} {value!r} is not run here")


def agree(config: Config, key: str, own: Sequence[int]) -> None:
    """Raises QueeError where numbers of a configuration are not those of the weights."""
    if key in config and list(config[key]) != list(own):
        raise QueeError(f"config.json says {key} {list(config[key])}; the weights have {list(own)}")


def fixed_size(config: Config, size: Size | None) -> int:
    """Side of the images of a network that takes one size; raises QueeError where the images are prepared for another."""
    image = side(config, "image_size", 224)
    if size not in (None, (image, image)):
        raise QueeError(
            f"config.json: image_size {image}; preprocessor_config.json makes images of {size}: correct one of them"
        )
    return image


def at_size(size: Size | None) -> dict[str, Any]:
    """The image size of a network that takes any, if it is not the usual one."""
    return {} if size in (None, (224, 224)) else {"img_size": size and (size[0] if size[0] == size[1] else list(size))}


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which timm computes so many hidden channels of an MLP, rounding down."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width
