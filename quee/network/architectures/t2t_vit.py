"""T2T-ViT (Yuan et al., ICCV 2021, arXiv 2101.11986): tokens-to-token stem, then a deep and narrow transformer.

State dicts have the keys and shapes of the authors' checkpoints. Every matrix product is an nn.Linear or a MatMul. The
performer's random features, their products and the division are of kind `float`, which is never quantized.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import sqrt
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Mlp, resample_abs_pos_embed, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional

from quee.data.preprocessing import Preprocessing, sides, spread
from quee.errors import require
from quee.network.attention import Attention, MatMul
from quee.network.base import TokenBackbone

STRIDE = 16
"""Pixels between neighbouring tokens: the three splits have strides 4, 2 and 2."""
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Kernel, stride and padding of the three soft splits."""
TOKEN_DIM = 64
RANDOM_FEATURES = 32
DROPOUT = 0.1
"""Dropout of the performer in training."""


class TokenPerformer(nn.Module):
    """Linear-time attention by positive random features of the softmax kernel; (n, tokens, dim_in) to (n, tokens, 64)."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim_in)
        self.kqv = nn.Linear(dim_in, 3 * TOKEN_DIM)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.drop = nn.Dropout(DROPOUT)
        self.norm2 = nn.LayerNorm(TOKEN_DIM)
        self.mlp = nn.Sequential(
            nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.GELU(), nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.Dropout(DROPOUT)
        )
        w = nn.init.orthogonal_(torch.empty(RANDOM_FEATURES, TOKEN_DIM)) * sqrt(RANDOM_FEATURES)
        self.w = nn.Parameter(w, requires_grad=False)
        self.key_features = MatMul("float")
        self.query_features = MatMul("float")
        self.key_value = MatMul("float")
        # A query is far from most random features; what the keys have summed up there can be as large as it is small.
        self.query_key_value = MatMul("float", balanced=True)
        self.normaliser = MatMul("float", balanced=True)

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.kqv(self.norm1(x)).chunk(3, dim=-1)  # (n, tokens, 64) each, in this order
        # Exponentials overflow in half precision; in bf16 their arguments would be off by per cents.
        kind = x.device.type
        exact = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
        with exact:
            y = self._attend(k.float(), q.float(), v.float()).to(v.dtype)
        x = v + self.drop(self.proj(y))  # the residual is the values: the input has another width
        return x + self.mlp(self.norm2(x))

    def _attend(self, k: Tensor, q: Tensor, v: Tensor) -> Tensor:
        # One product per sample, so that its value does not depend on the others in the batch.
        w = self.w.float().t().expand(len(k), TOKEN_DIM, RANDOM_FEATURES)
        k = _positive(self.key_features(k, w), k)  # (n, tokens, 32)
        q = _positive(self.query_features(q, w), q)
        summed = self.key_value(v.transpose(1, 2), k)  # (n, 64, 32)
        total = self.normaliser(q, k.sum(dim=1).unsqueeze(2))  # (n, tokens, 1)
        return self.query_key_value(q, summed.transpose(1, 2)) / (total + 1e-8)


def _positive(projected: Tensor, x: Tensor) -> Tensor:
    return torch.exp(projected - x.square().sum(dim=-1, keepdim=True) / 2) / sqrt(RANDOM_FEATURES)


class TokenAttention(nn.Module):
    """Single-head attention to another width, scaled by the input's width; the residual is the values."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.scale = dim_in**-0.5
        self.qkv = nn.Linear(dim_in, 3 * TOKEN_DIM, bias=False)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.query_key = MatMul()
        self.attention_value = MatMul()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (n, tokens, 64) each
        attention = self.query_key(q * self.scale, k.transpose(1, 2)).softmax(dim=-1)  # (n, tokens, tokens)
        return v + self.proj(self.attention_value(attention, v))


class TokenTransformer(nn.Module):
    """The performer's alternative with exact attention; (n, tokens, dim_in) to (n, tokens, 64)."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim_in)
        self.attn = TokenAttention(dim_in)
        self.norm2 = nn.LayerNorm(TOKEN_DIM)
        self.mlp = Mlp(TOKEN_DIM, TOKEN_DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


TOKENS = {"performer": TokenPerformer, "transformer": TokenTransformer}


class TokensToToken(nn.Module):
    """Three overlapping splits with attention between them: images (n, c, h, w) to (n, h/16 · w/16, dim)."""

    def __init__(self, channels: int, dim: int, tokens: str) -> None:
        super().__init__()
        kernels = [kernel * kernel for kernel, _, _ in SPLITS]
        self.attention1 = TOKENS[tokens](channels * kernels[0])
        self.attention2 = TOKENS[tokens](TOKEN_DIM * kernels[1])
        self.project = nn.Linear(TOKEN_DIM * kernels[2], dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = self.attention1(_split(x, 0))  # (n, h/4 · w/4, 64)
        x = x.transpose(1, 2).unflatten(2, (height // 4, width // 4))
        x = self.attention2(_split(x, 1))  # (n, h/8 · w/8, 64)
        x = x.transpose(1, 2).unflatten(2, (height // 8, width // 8))
        return self.project(_split(x, 2))


def _split(x: Tensor, index: int) -> Tensor:
    kernel, stride, padding = SPLITS[index]
    return functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)  # (n, tokens, c · kernel²)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, qkv_bias=False, scale=scale)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class T2TViT(TokenBackbone):
    """`attention_scale` is `head_dim` (the released weights) or `dim`: the width whose inverse root scales attention."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        tokens: str = "performer",
        num_classes: int = 1000,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        attention_scale: str = "head_dim",
    ) -> None:
        """Raises UsageError for values that a T2T-ViT cannot have."""
        super().__init__()
        height, width = sides(img_size)
        require(tokens in TOKENS, f"tokens must be one of {', '.join(TOKENS)}; got {tokens!r}")
        require(heads >= 1 and dim % heads == 0, f"dim {dim} is not divisible by heads {heads}")
        widths = {"head_dim": dim // heads, "dim": dim}
        require(attention_scale in widths, f"attention_scale must be head_dim or dim; got {attention_scale!r}")
        require(num_classes >= 1, f"num_classes must be at least 1; got {num_classes}")
        fits = min(height, width) >= STRIDE and height % STRIDE == width % STRIDE == 0
        require(fits, f"img_size must be a multiple of {STRIDE}; got {img_size}")
        self.grid = (height // STRIDE, width // STRIDE)
        positions = self.grid[0] * self.grid[1] + 1
        self.num_classes, self.dim = num_classes, dim
        mean, std = spread(IMAGENET_DEFAULT_MEAN, in_chans), spread(IMAGENET_DEFAULT_STD, in_chans)
        self.input = Preprocessing((height, width), 0.9, "bicubic", mean, std, in_chans)
        self.tokens_to_token = TokensToToken(in_chans, dim, tokens)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sinusoid(positions, dim), requires_grad=False)
        scale = widths[attention_scale] ** -0.5
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        trunc_normal_(self.cls_token, std=0.02)
        self.apply(_initialise)

    def embed(self, x: Tensor) -> Tensor:
        x = self.tokens_to_token(x)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed

    def classify(self, state: Tensor) -> Tensor:
        return self.head(self.norm(state[:, 0]))

    def keywords(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Width, depth and channels."""
        first = state.get("tokens_to_token.attention1.norm1.weight")
        if first is None or "cls_token" not in state:
            return {}
        blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        return {"dim": state["cls_token"].shape[-1], "depth": len(blocks), "in_chans": len(first) // SPLITS[0][0] ** 2}

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict at this image size, with the position table resampled in their way."""
        table = state.get("pos_embed")
        if table is None or table.shape[1:2] == self.pos_embed.shape[1:2]:
            return state
        self.refuse_positions(table, prefix=1)
        return {**state, "pos_embed": resample_abs_pos_embed(table, list(self.grid), antialias=False)}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sinusoid(positions: int, dim: int) -> Tensor:
    """Sinusoidal position table (1, positions, dim): sines in the even columns, cosines in the odd, base 10000."""
    column = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float().unsqueeze(0)


SIZES = {
    "t2t_vit_7": (256, 7, 4, 2),
    "t2t_vit_10": (256, 10, 4, 2),
    "t2t_vit_12": (256, 12, 4, 2),
    "t2t_vit_14": (384, 14, 6, 3),
    "t2t_vit_19": (448, 19, 7, 3),
    "t2t_vit_24": (512, 24, 8, 3),
    "t2t_vit_t_14": (384, 14, 6, 3, "transformer"),
}
"""By name: dim, depth, heads, MLP ratio, and the stem's attention if it is not the performer."""


def create(name: str, **kwargs: Any) -> T2TViT:
    """The T2T-ViT of that name with random weights; `kwargs` replace its sizes or add to them."""
    parts = ("dim", "depth", "heads", "mlp_ratio", "tokens")
    return T2TViT(**{**dict(zip(parts, SIZES[name], strict=False)), **kwargs})  # type: ignore[arg-type]
