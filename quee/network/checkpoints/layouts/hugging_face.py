"""Hugging Face's ViTForImageClassification, DeiT's and DINOv2's."""

from quee.errors import QueeError
from quee.network.checkpoints.layout import Layout, State, join, rename

_RULES = (
    (r"^(?:vit|deit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
    (r"^(?:classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)


def convert(state: State) -> State:
    """Joins query, key and value. Raises QueeError for a DeiT with two tokens and one head."""
    if "deit.embeddings.distillation_token" in state and "classifier.weight" in state:
        raise QueeError(
            "it is a DeiTForImageClassification, whose one head reads the class token of a network with a distillation "
            "token; timm's has two heads: take DeiTForImageClassificationWithTeacher, or the ViT of that size"
        )
    return join(rename(state, _RULES), ("query", "key", "value"))


LAYOUT = Layout(
    "Hugging Face ViT, DeiT or DINOv2",
    r"(?:(?:vit|deit|dinov2|dinov2_with_registers)\.)?embeddings\.patch_embeddings\.projection\.weight",
    convert,
    also=r"encoder\.layer\.0\.(?:layernorm_before|norm1)\.weight",
    unused=r"pooler\.|embeddings\.mask_token$|^decoder\.",
)
