"""Any other classifier of timm by timm's name, if it is a chain of blocks (`quee/network/cutting.py`)."""

from typing import Any

from quee.network.chain import ChainBackbone, chained, is_headless, is_timm

__all__ = ["create", "is_headless", "knows"]

knows = is_timm


def create(name: str, **kwargs: Any) -> ChainBackbone:
    """The network of that name with random weights; `kwargs` go to timm."""
    return chained(name, **kwargs)
