"""Hugging Face's DINOv3, which has no head there."""

from typing import Any

from quee.errors import QueeError
from quee.network.architectures import is_backbone
from quee.network.checkpoints.layout import Config, Layout, Named, Size, State, beside, join, rename
from quee.network.checkpoints.layouts.hugging_face import (
    ENCODER,
    PARTS,
    at_size,
    dimensions,
    has_activation,
    mlp_ratio,
    number,
    side,
)
from quee.network.checkpoints.layouts.sizes import VITS

_RULES = (
    (r"^(?:dinov3_vit\.|model\.)", ""),
    (r"^layer\.(\d+)\.", r"blocks.\1."),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.(weight|bias)$", r"patch_embed.proj.\1"),
    (r"\.attention\.q_proj\.bias$", ".attn.q_bias"),
    (r"\.attention\.v_proj\.bias$", ".attn.v_bias"),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
GATED = "its MLPs are gated (use_gated_mlp), with widths that timm's network does not take"


def convert(state: State) -> State:
    """Query, key and value become one matrix; only query and value have biases, which stay outside of it."""
    if any(".mlp.gate_proj." in key for key in state):
        raise QueeError(GATED)
    if any(key.endswith("attention.k_proj.bias") for key in state):
        raise QueeError("its keys have biases (key_bias), which timm's network does not have")
    found = join(rename(state, (*_RULES, *ENCODER)), PARTS)
    return {key: value for key, value in found.items() if value.numel()}  # there may be no registers


def configured(config: Config, state: State, size: Size | None) -> Named:
    """The network with biases of query and value, which reads its class token, as transformers' `pooler_output` does."""
    has_activation(config, "gelu", "a DINOv3")
    if number(config, "rope_theta", 100.0) != 100:
        raise QueeError(f"config.json: rope_theta {config['rope_theta']!r} is not run here; run is 100")
    common = dimensions({"hidden_size": 384, "num_attention_heads": 6, **config})
    width = common["embed_dim"]
    kwargs: dict[str, Any] = {
        **common,
        "mlp_ratio": mlp_ratio(number(config, "intermediate_size", 1536), width),
        "patch_size": side(config, "patch_size", 16),
        "num_reg_tokens": number(config, "num_register_tokens", 0),
        "norm_eps": number(config, "layer_norm_eps", 1e-5),
    }
    own = tuple(kwargs[key] for key in ("embed_dim", "depth", "num_heads"))
    sizes = {name: known for name, known in VITS.items() if is_backbone(f"vit_{name}_patch16_dinov3_qkvb")}
    known = next((name for name, said in sizes.items() if said == own), "small")
    implied: dict[str, Any] = dict(zip(("embed_dim", "depth", "num_heads"), sizes[known], strict=True))
    implied |= {"mlp_ratio": 4.0, "patch_size": 16, "num_reg_tokens": 4, "norm_eps": 1e-5, "in_chans": 3}
    image = side(config, "image_size", 224)
    more = {"global_pool": "token", "img_size": 224, **at_size(size or (image, image))}
    return Named(f"vit_{known}_patch16_dinov3_qkvb", {**beside(kwargs, implied), **more})


LAYOUT = Layout(
    "Hugging Face DINOv3",
    r"(?:dinov3_vit\.|model\.)?layer\.0\.attention\.q_proj\.weight",
    convert,
    unused=r"embeddings\.mask_token$|rope_embeddings\.",
    model_types=("dinov3_vit",),
    configured=configured,
)
