"""Products of two activations within other people's modules, handed to `MatMul` modules.

The modules run as they are. While one runs, its calls of `@`, `matmul`, `bmm` and `scaled_dot_product_attention` go to
submodules of it, so that quantization can replace them and costs can count them. A layer whose weight the module uses by
itself (`linear(x, self.qkv.weight, bias)`) is called as a module, too.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from quee.errors import QueeError
from quee.network.attention import MatMul, as_it_is

MATMULS: frozenset[Callable[..., Any]] = frozenset(
    (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
)
ATTENTION = functional.scaled_dot_product_attention
QUERY_KEY, ATTENTION_VALUE = "query_key", "attention_value"


class _HandedOver(TorchFunctionMode):
    """Hands a module's products to its submodules, in the order in which the module computes them."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner, self.names = owner, iter(owner._products)  # type: ignore[arg-type]

    def next(self) -> nn.Module:
        name = next(self.names, None)
        if name is None:
            raise QueeError(f"a {type(self.owner).__name__} computes more products than when it was built")
        return self.owner.get_submodule(name)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given: dict[str, Any] = kwargs or {}
        if func in MATMULS:
            product = self.next()
            with as_it_is():
                return product(*args, *given.values())
        if func is ATTENTION:
            first, second = self.next(), self.next()
            with as_it_is():
                return _attend(first, second, *args, **given)
        if func is functional.linear:
            x, weight, bias = linear_arguments(args, given)
            for name in self.owner._linears:  # type: ignore[union-attr]
                layer = self.owner.get_submodule(name)
                if weight is layer.weight:
                    with as_it_is():
                        return layer(x) if bias is None else layer(x) + bias
        return func(*args, **given)


def linear_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """The input, weight and bias of a call of `functional.linear`."""
    given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    return given["input"], given["weight"], given.get("bias")


def _attend(
    query_key: nn.Module,
    attention_value: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's `scaled_dot_product_attention` in the words of its documentation, with the two products as modules."""
    if is_causal or enable_gqa:
        raise QueeError("causal and grouped attention are not run")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query_key(query * scale, key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(dim=-1)
    weights = functional.dropout(weights, dropout_p) if dropout_p else weights
    return attention_value(weights, value)  # type: ignore[no-any-return]


@cache
def _handing_over(kind: type[nn.Module]) -> type[nn.Module]:
    class HandingOver(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with _HandedOver(self):
                return super().forward(*args, **kwargs)

    HandingOver.__name__ = HandingOver.__qualname__ = kind.__name__
    return HandingOver


def hand_over(module: nn.Module, products: Mapping[str, str], linears: tuple[str, ...] = ()) -> None:
    """Let a module's products be submodules from now on.

    `products` are their names in the order of computation, each with its kind; `linears` are the layers whose weights
    the module uses by itself.
    """
    for name, kind in products.items():
        module.add_module(name, MatMul(kind))
    module.__class__ = _handing_over(type(module))  # type: ignore[arg-type]
    module._products, module._linears = tuple(products), linears  # type: ignore[assignment]
