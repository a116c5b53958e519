"""Google's JAX weights of ViT in NumPy's `.npz`: those of ViT's authors and of big_vision."""

from torch import Tensor

from quee.network.checkpoints.layout import Layout, State, join, rename
from quee.network.checkpoints.layouts.sizes import vit_of_weights

_BLOCK = (
    (r"LayerNorm_0/", "norm1."),
    (r"LayerNorm_[12]/", "norm2."),
    (r"MultiHeadDotProductAttention_[01]/out/", "attn.proj."),
    (r"MultiHeadDotProductAttention_[01]/(query|key|value)/", r"attn.\1."),
    (r"MlpBlock_[03]/Dense_0/", "mlp.fc1."),
    (r"MlpBlock_[03]/Dense_1/", "mlp.fc2."),
)
_RULES = (
    (r"^cls$", "cls_token"),
    (r"^(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj."),
    (r"^Transformer/encoder_norm/", "norm."),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"^head/", "head."),
    *_BLOCK,
    (r"\.(kernel|scale)$", ".weight"),
)


def convert(state: State) -> State:
    """JAX puts inputs first and keeps heads as an axis; big_vision stacks all blocks in one array."""
    spread: State = {}
    for key, value in state.items():
        if (stacked := "Transformer/encoderblock/") in key:
            spread |= {key.replace(stacked, f"Transformer/encoderblock_{i}/"): part for i, part in enumerate(value)}
        else:
            spread[key] = value
    turned = {key: _from_jax(key, value) for key, value in spread.items()}
    return join(rename(turned, _RULES), ("query", "key", "value"))


def _from_jax(key: str, value: Tensor) -> Tensor:
    kind = key.rpartition("/")[2]
    if "/MultiHeadDotProductAttention_" in key:
        if "/out/" in key:
            return value.flatten(0, -2).t() if kind == "kernel" else value  # (heads, head dim, dim)
        return value.flatten(1).t() if kind == "kernel" else value.flatten()  # (dim, heads, head dim)
    if kind != "kernel":
        return value
    return value.permute(3, 2, 0, 1) if value.dim() == 4 else value.t()  # (height, width, in, out) or (in, out)


LAYOUT = Layout(
    "Google's ViT of JAX (.npz)",
    r"Transformer/encoderblock(?:_0)?/LayerNorm_0/(?:scale|bias)",
    convert,
    unused=r"^pre_logits/",
    named=vit_of_weights,
)
