"""timm's VisionTransformer as a segmented backbone; several architectures use it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing
from quee.errors import UsageError
from quee.network.attention import Attention
from quee.network.base import TokenBackbone
from quee.network.pooling import mean
from quee.network.timm_models import NO_HEAD, timm_input

POOLS = ("token", "avg", "avgmax", "max")
PATCHES = "patch_embed.proj.weight"


class TimmViT(TokenBackbone):
    """A timm VisionTransformer run block by block; the state dict has timm's keys.

    timm's attention is replaced by one with the same weights whose products are modules.
    """

    head_modules: tuple[str, ...] = ("norm", "fc_norm", "head_drop", "head")
    patch_embed: nn.Module
    pos_drop: nn.Module
    patch_drop: nn.Module
    norm_pre: nn.Module
    norm: nn.Module
    fc_norm: nn.Module
    head_drop: nn.Module
    head: nn.Module
    cls_token: Tensor | None
    reg_token: Tensor | None
    dist_token: Tensor | None
    pos_embed: Tensor | None

    def __init__(self, model: VisionTransformer, input: Preprocessing) -> None:
        """Raises UsageError when the model has parts that this adapter does not run."""
        super().__init__()
        _check(model)
        for name in ("cls_token", "reg_token", "dist_token", "pos_embed"):
            self.register_parameter(name, None)  # unless the model has it
        for block in model.blocks.children():
            block.attn = _explicit(block.get_submodule("attn"))
        self.adopt(model)
        self.input = input
        self.num_classes = model.num_classes
        self.dim = model.embed_dim
        self.prefix_tokens = model.num_prefix_tokens
        self.has_class_token = model.has_class_token
        self.grid = model.patch_embed.grid_size
        self.global_pool = model.global_pool
        self.no_embed_class = model.no_embed_class  # the position table has no rows for the prefix
        self._pool_from = 0 if model.pool_include_prefix else model.num_prefix_tokens

    def embed(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)  # (n, patches, dim)
        given = (self.cls_token, self.reg_token, self.dist_token)
        prefix = [token.expand(len(x), -1, -1) for token in given if token is not None]
        if self.no_embed_class:
            x = torch.cat([*prefix, x if self.pos_embed is None else x + self.pos_embed], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1)
            x = x if self.pos_embed is None else x + self.pos_embed
        return self.norm_pre(self.patch_drop(self.pos_drop(x)))

    def classify(self, state: Tensor) -> Tensor:
        if self.global_pool == "token":
            pooled = self.norm(state[:, 0])  # the norm is per token, so the class token's is enough
        else:
            tokens = self.norm(state)[:, self._pool_from :]
            average, largest = mean(tokens), tokens.amax(dim=1)
            pooled = {"avg": average, "max": largest, "avgmax": (average + largest) / 2}[self.global_pool]
        return self.head(self.head_drop(self.fc_norm(pooled)))

    @property
    def num_prefix_tokens(self) -> int:
        """timm's name for the number of class and register tokens."""
        return self.prefix_tokens

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in the layout of timm, DeiT III or DINOv2, with timm's keys and positions for this image size.

        Raises QueeError where the positions are for images of another shape.
        """
        table = state.get("pos_embed")
        if table is not None and self.pos_embed is not None:
            # The original networks with registers have a position only for the class token.
            prefix = 1 if "register_tokens" in state else 0 if self.no_embed_class else self.prefix_tokens
            self.refuse_positions(table, prefix)
        # timm would silently resample patches of another size, and leave out a layer before the head.
        kept = {key: value for key, value in state.items() if key == PATCHES or "pre_logits" in key}
        # The mask token, which only self-supervised training reads, tells timm to look for DINOv2's names.
        given = {"mask_token": torch.zeros(0), **{key: value for key, value in state.items() if key not in kept}}
        found: dict[str, Tensor] = checkpoint_filter_fn(given, self, adapt_layer_scale=True)  # type: ignore[arg-type]
        return found | kept

    def keywords(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Sizes, and which of the parts that a VisionTransformer may have are there."""
        if "blocks.0.norm1.weight" not in state:
            return {}
        found: dict[str, Any] = {"depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")})}
        patches, wide = state.get(PATCHES), state.get("blocks.0.mlp.fc1.weight")
        if patches is not None and patches.dim() == 4:
            found |= {"embed_dim": patches.shape[0], "patch_size": patches.shape[2]}
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


class DistilledViT(TimmViT):
    """DeiT with a distillation token; its logits are the mean of two heads'."""

    head_dist: nn.Module
    head_modules = (*TimmViT.head_modules, "head_dist")

    def classify(self, state: Tensor) -> Tensor:
        tokens = self.head_drop(self.norm(state[:, :2]))
        return (self.head(tokens[:, 0]) + self.head_dist(tokens[:, 1])) / 2


class ConvStem(nn.Module):
    """Overlapping 3×3 convolutions of stride 2 instead of one patch projection (Xiao et al. 2021, arXiv 2106.14881).

    A small network with this stem learns in fewer epochs, and each of its few tokens still sees all pixels around it.
    """

    def __init__(
        self, img_size: tuple[int, int], in_chans: int, embed_dim: int, widths: tuple[int, ...], **_: Any
    ) -> None:
        """`widths` are the channels of all convolutions but the last, which has `embed_dim`."""
        super().__init__()
        channels = (in_chans, *widths, embed_dim)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])
        shrink = 2 ** (len(channels) - 1)
        self.grid_size = (-(-img_size[0] // shrink), -(-img_size[1] // shrink))
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to tokens (n, patches, dim)."""
        return self.proj(x).flatten(2).transpose(1, 2)


def refuse_parts(model: nn.Module) -> None:
    """Raises UsageError with the first part of a model that this adapter does not run."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise UsageError(f"timm's {type(model).__name__} is not run by this adapter; valid: VisionTransformer")
    assert isinstance(model, VisionTransformer)
    embedding = model.patch_embed
    if type(embedding) not in (PatchEmbed, ConvStem) or model.dynamic_img_size:
        kind = "dynamic_img_size" if type(embedding) in (PatchEmbed, ConvStem) else f"a {type(embedding).__name__} stem"
        raise UsageError(f"{kind} is not run by this adapter; valid: patches of a fixed img_size")
    if min(embedding.grid_size) < 1:
        raise UsageError(f"img_size {embedding.img_size} is smaller than one patch of {embedding.patch_size}")
    if model.attn_pool is not None or model.global_pool not in POOLS:
        raise UsageError(f"global_pool {model.global_pool!r} is not run by this adapter; valid: {', '.join(POOLS)}")
    for index, block in enumerate(model.blocks):
        if type(block) not in (Block, ResPostBlock):
            raise UsageError(f"blocks.{index} is a {type(block).__name__}, which this adapter does not run")
        _refuse_attention(block.get_submodule("attn"), index)


def _refuse_attention(attention: nn.Module, block: int) -> None:
    if type(attention) is not TimmAttention:
        kind = type(attention).__name__
        raise UsageError(f"blocks.{block}.attn is of type {kind}, which this adapter does not run; valid: Attention")
    unusual = {
        "a norm before its projection": not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity),
        "a gate": getattr(attention, "gate", None) is not None,
        "heads of another width": attention.qkv.out_features != 3 * attention.qkv.in_features,
        "dropout": attention.attn_drop.p > 0 or attention.proj_drop.p > 0,
    }
    for what, present in unusual.items():
        if present:
            raise UsageError(f"blocks.{block}.attn has {what}, which this adapter does not run")


def _check(model: VisionTransformer) -> None:
    """Raises UsageError when the model has parts that this adapter does not run, or no head."""
    refuse_parts(model)
    if model.num_classes < 1:
        raise UsageError(NO_HEAD)


def _explicit(attention: nn.Module) -> Attention:
    """Attention with the same weights and its products as modules, for attention that `refuse_parts` accepts."""
    assert isinstance(attention, TimmAttention)
    with torch.device("meta"):  # the layers with weights are replaced below
        explicit = Attention(
            attention.qkv.in_features,
            attention.num_heads,
            scale=attention.scale,
            q_norm=attention.q_norm,
            k_norm=attention.k_norm,
        )
    explicit.qkv, explicit.proj = attention.qkv, attention.proj
    return explicit


def timm_model(name: str, **kwargs: Any) -> VisionTransformer:
    """timm's model with random weights; raises UsageError where it is not a VisionTransformer."""
    model = timm.create_model(name, pretrained=False, **kwargs)
    if not isinstance(model, VisionTransformer):
        raise UsageError(f"timm's {name!r} is a {type(model).__name__}, not a VisionTransformer")
    return model


def vit_input(model: VisionTransformer) -> Preprocessing:
    """timm's preprocessing, at the size and for the channels that the model was built for."""
    return timm_input(model, model.patch_embed.img_size, model.patch_embed.proj.in_channels)


def adapted(name: str, **kwargs: Any) -> TimmViT:
    """Any timm VisionTransformer with random weights; `kwargs` go to `timm.create_model`."""
    model = timm_model(name, **kwargs)
    adapter = DistilledViT if isinstance(model, VisionTransformerDistilled) else TimmViT
    return adapter(model, vit_input(model))
