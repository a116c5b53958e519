"""Keywords of timm's VisionTransformer that weights ask for, read off their names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quee.network.base import SegmentedBackbone
from quee.network.vision_transformer import TimmViT


def asked_for(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What names and shapes of weights under timm's names say of the network they are of."""
    found: dict[str, Any] = {}
    patches = state.get("patch_embed.proj.weight")
    if patches is not None and patches.dim() == 4:
        found |= {"embed_dim": patches.shape[0], "in_chans": patches.shape[1], "patch_size": patches.shape[2]}
    blocks = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    if blocks:
        found["depth"] = max(blocks) + 1
    wide = state.get("blocks.0.mlp.fc1.weight")
    if wide is not None and wide.dim() == 2:
        found["mlp_ratio"] = wide.shape[0] / wide.shape[1]
    registers = state.get("reg_token")
    return found | {
        "class_token": "cls_token" in state,
        "reg_tokens": 0 if registers is None else registers.shape[1],
        "global_pool": "avg" if "fc_norm.weight" in state else "token",
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "pre_norm": "norm_pre.weight" in state,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in state else None,
    }


def differing(backbone: SegmentedBackbone, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keywords that weights ask for and a backbone was not built with; none where it is no timm ViT, or they are not."""
    if not isinstance(backbone, TimmViT) or "patch_embed.proj.weight" not in state:
        return {}
    own = asked_for(backbone.state_dict())
    # A network without class token cannot pool it.
    return {key: value for key, value in asked_for(state).items() if own.get(key) != value}
