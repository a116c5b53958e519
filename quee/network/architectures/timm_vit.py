"""timm's VisionTransformers as segmented backbones, by name."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from quee.errors import UsageError
from quee.network.attention import Attention
from quee.network.base import InputConfig, SegmentedBackbone
from quee.network.positions import resample_positions
from quee.network.preprocessing import spread

POOLS = ("token", "avg", "avgmax", "max")
VIT_MODULES = ("vision_transformer", "deit")
"""timm's modules whose networks are VisionTransformers."""


class TimmViT(SegmentedBackbone):
    """A timm VisionTransformer run block by block; the state dict has timm's keys.

    timm's attention is replaced by one with its products as modules, of the same weights.
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
    position_resampling: Mapping[str, Any] = {"antialias": True}
    """How a table for another image size is resampled, as `resample_positions` takes it."""

    def __init__(self, model: VisionTransformer, input: InputConfig) -> None:
        """Raises UsageError when the model has parts that this adapter does not run."""
        super().__init__()
        _check(model)
        for name in ("cls_token", "reg_token", "dist_token", "pos_embed"):
            self.register_parameter(name, None)  # unless the model has it
        for block in model.blocks.children():
            block.attn = _explicit(block.get_submodule("attn"))
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.input = input
        self.num_classes = model.num_classes
        self.dim = model.embed_dim
        self.prefix_tokens = model.num_prefix_tokens
        self.has_class_token = model.has_class_token
        self.grid: tuple[int, int] = model.patch_embed.grid_size
        self.global_pool = model.global_pool
        self._bare_positions = model.no_embed_class
        self._pool_from = 0 if model.pool_include_prefix else model.num_prefix_tokens

    def embed(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)  # (n, patches, dim)
        given = (self.cls_token, self.reg_token, self.dist_token)
        prefix = [token.expand(len(x), -1, -1) for token in given if token is not None]
        if self._bare_positions:  # the table has no rows for the prefix
            x = torch.cat([*prefix, x if self.pos_embed is None else x + self.pos_embed], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1)
            x = x if self.pos_embed is None else x + self.pos_embed
        return self.norm_pre(self.patch_drop(self.pos_drop(x)))

    def classify(self, state: Tensor) -> Tensor:
        if self.global_pool == "token":
            pooled = self.norm(state[:, 0])  # the norm is per token: only this one's is needed
        else:
            tokens = self.norm(state)[:, self._pool_from :]
            mean, largest = _mean(tokens), tokens.amax(dim=1)
            pooled = {"avg": mean, "max": largest, "avgmax": (mean + largest) / 2}[self.global_pool]
        return self.head(self.head_drop(self.fc_norm(pooled)))

    def pool(self, state: Tensor, pooling: str) -> Tensor:
        """As of any backbone; without a class token the mean token stands for it, the largest values for the mean."""
        if self.has_class_token:
            return super().pool(state, pooling)
        tokens = state[:, self.prefix_tokens :]
        return _mean(tokens) if pooling == "cls" else torch.cat([_mean(tokens), tokens.amax(dim=1)], dim=1)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in timm's layout, DeiT III's or DINOv2's, with timm's keys and positions for this image size."""
        state = {_timm_key(key): value for key, value in state.items()}
        state.pop("mask_token", None)  # of self-supervised training alone
        if "register_tokens" in state:  # the originals' class token has its position added afterwards
            positions = state["pos_embed"]
            state["reg_token"] = state.pop("register_tokens")
            state["cls_token"], state["pos_embed"] = state["cls_token"] + positions[:, :1], positions[:, 1:]
        table, own = state.get("pos_embed"), self.pos_embed
        if table is not None and own is not None and table.shape[1:2] != own.shape[1:2]:
            prefix = 0 if self._bare_positions else self.prefix_tokens
            state["pos_embed"] = resample_positions(table, self.grid, prefix, **self.position_resampling)
        return state


class DistilledViT(TimmViT):
    """DeiT with a distillation token: the mean of two heads' logits."""

    head_dist: nn.Module
    head_modules = (*TimmViT.head_modules, "head_dist")

    def classify(self, state: Tensor) -> Tensor:
        tokens = self.head_drop(self.norm(state[:, :2]))
        return (self.head(tokens[:, 0]) + self.head_dist(tokens[:, 1])) / 2


class ConvStem(nn.Module):
    """Overlapping 3×3 convolutions of stride 2 in place of one patch projection (Xiao et al. 2021, arXiv 2106.14881).

    A small network learns from them in fewer epochs, and each of its few tokens still sees all pixels around it.
    """

    def __init__(
        self, img_size: tuple[int, int], in_chans: int, embed_dim: int, widths: tuple[int, ...], **_: Any
    ) -> None:
        """`widths` are the channels of the convolutions before the last, which has `embed_dim`."""
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


def _mean(tokens: Tensor) -> Tensor:
    # In double precision, so that it does not depend on how the batch is split.
    return tokens.double().mean(dim=1).to(tokens.dtype)


_RENAMED = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}
"""Parts of keys in the originals' layouts (DeiT III, DINOv2 giant) to timm's."""


def _timm_key(key: str) -> str:
    for original, timms in _RENAMED.items():
        key = key.replace(original, timms)
    return key


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
        raise UsageError("this model has no classification head of its own; give num_classes among its kwargs")


def _explicit(attention: nn.Module) -> Attention:
    """Attention of the same weights with its products as modules; for what `refuse_parts` let through."""
    assert isinstance(attention, TimmAttention)
    with torch.device("meta"):  # the layers with weights are put in below
        explicit = Attention(
            attention.qkv.in_features,
            attention.num_heads,
            scale=attention.scale,
            q_norm=attention.q_norm,
            k_norm=attention.k_norm,
        )
    explicit.qkv, explicit.proj = attention.qkv, attention.proj
    return explicit


@cache
def is_timm_vit(name: str) -> bool:
    """Whether timm knows the name and builds a VisionTransformer for it."""
    base, _, tag = name.partition(".")
    known = timm.is_model(base) and (not tag or name in timm.list_pretrained(f"{base}.*"))
    return known and timm.model_entrypoint(base).__module__ in {f"timm.models.{module}" for module in VIT_MODULES}


def is_headless(name: str) -> bool:
    """Whether timm's network of that name has no classification head of its own."""
    config = timm.get_pretrained_cfg(name) if is_timm_vit(name) else None
    return config is not None and config.num_classes == 0


def timm_model(name: str, **kwargs: Any) -> VisionTransformer:
    """timm's model with random weights; raises UsageError when it is no VisionTransformer."""
    model = timm.create_model(name, pretrained=False, **kwargs)
    if not isinstance(model, VisionTransformer):
        raise UsageError(f"timm's {name!r} is a {type(model).__name__}, not a VisionTransformer")
    return model


def _others(name: str) -> str:
    """Names to take instead of one whose network has parts that are not run whatever its keywords; empty for others."""
    from quee.network.architectures.names import nearest

    try:
        with torch.device("meta"):
            refuse_parts(timm_model(name, num_classes=1, depth=1))
    except UsageError:
        return f"; nearest that are: {', '.join(nearest(name))}"
    return ""


def timm_input(model: VisionTransformer) -> InputConfig:
    """Preprocessing as timm's configuration of the model says, at the size it was built for."""
    config = timm.data.resolve_model_data_config(model)
    height, width = model.patch_embed.img_size or config["input_size"][1:]
    channels = model.patch_embed.proj.in_channels
    mean, std = spread(config["mean"], channels), spread(config["std"], channels)
    return InputConfig(height, width, channels, mean, std, config["interpolation"], config["crop_pct"])


def timm_vit(name: str, **kwargs: Any) -> TimmViT:
    """Any timm VisionTransformer with random weights; `kwargs` go to `timm.create_model`."""
    model = timm_model(name, **kwargs)
    try:
        _check(model)
    except UsageError as error:
        raise UsageError(f"{error}{_others(name)}") from None
    adapter = DistilledViT if isinstance(model, VisionTransformerDistilled) else TimmViT
    return adapter(model, timm_input(model))


def _small_vit(input: InputConfig, **kwargs: Any) -> TimmViT:
    kwargs = {"in_chans": input.channels, "img_size": (input.height, input.width), "num_classes": 10, **kwargs}
    size, channels = kwargs["img_size"], kwargs["in_chans"]
    height, width = (size, size) if isinstance(size, int) else size
    model = VisionTransformer(**{**kwargs, "img_size": (height, width)})
    mean, std = spread(input.mean, channels), spread(input.std, channels)
    return TimmViT(model, replace(input, height=height, width=width, channels=channels, mean=mean, std=std))


def vit_digits(**kwargs: Any) -> TimmViT:
    """A small ViT for 8×8 digits: 16 patches, dim 64, 8 blocks, about 0.27 M parameters."""
    size = {"patch_size": 2, "embed_dim": 64, "depth": 8, "num_heads": 4, "mlp_ratio": 2}
    backbone = _small_vit(InputConfig(8, 8, 1, (0.305,), (0.376,)), **{**size, **kwargs})
    # Wide positions: with timm's 0.02 a network this small takes twice the epochs to notice where a patch lies.
    assert isinstance(backbone.pos_embed, Tensor)
    nn.init.normal_(backbone.pos_embed, std=0.3)
    return backbone


def vit_fashion_mnist(**kwargs: Any) -> TimmViT:
    """A small ViT for 28×28 greyscale images: convolutional stem to 16 patches, dim 128, 8 blocks, about 1.4 M parameters.

    With 16 patches it trains 3.2 times as fast on a CPU as with 49.
    """
    size = {"embed_dim": 128, "depth": 8, "num_heads": 4, "mlp_ratio": 3, "stem": (32, 64)}
    stem = tuple({**size, **kwargs}["stem"])
    kwargs = {name: value for name, value in {**size, **kwargs}.items() if name != "stem"}
    embed = partial(ConvStem, widths=stem)
    return _small_vit(
        InputConfig(28, 28, 1, (0.286,), (0.353,)), patch_size=2 ** (len(stem) + 1), embed_layer=embed, **kwargs
    )
