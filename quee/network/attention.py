"""Attention with its matrix products as modules, so that quantization and cost accounting can see them."""

import torch
from torch import Tensor, nn

as_it_is = torch._C.DisableTorchFunction
"""Context in which a layer computes its own product even within a module whose products are handed over (`products.py`)."""


class MatMul(nn.Module):
    """a @ b of two activations.

    `kind` is `attention` where quantization may replace it, `float` where the product stays in floating point. `balanced`
    says that row k of b can be so large or small that it decides what column k of a counts for in a row of a.
    """

    def __init__(self, kind: str = "attention", balanced: bool = False) -> None:
        super().__init__()
        self.kind, self.balanced = kind, balanced

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Attention(nn.Module):
    """Multi-head self-attention; submodules keep the names of the usual checkpoints: `qkv`, `proj`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        qkv_bias: bool = True,
        scale: float | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5 if scale is None else scale
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = q_norm or nn.Identity()
        self.k_norm = k_norm or nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.query_key = MatMul()
        self.attention_value = MatMul()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(n, tokens, dim) to the same shape; masks, which timm's blocks pass on, must be off."""
        if attn_mask is not None or is_causal:
            raise ValueError("masked attention is not supported")
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (n, heads, tokens, head_dim) each
        q, k = self.q_norm(q), self.k_norm(k)
        attention = self.query_key(q * self.scale, k.transpose(-2, -1)).softmax(dim=-1)  # (n, heads, tokens, tokens)
        x = self.attention_value(attention, v).transpose(1, 2).reshape(n, tokens, dim)
        return self.proj(x)
