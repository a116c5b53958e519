"""BEiT (Bao et al. 2021, arXiv 2106.08254) and BEiT v2 (arXiv 2208.06366) through timm, by timm's names.

States are tokens, the class token first. Position biases are added in floating point. The bias of query, key and value is
outside of their layer in the state dict, and stays so.
"""

from typing import Any

from quee.network.chain import ChainBackbone, chained, is_headless, is_timm

__all__ = ["create", "is_headless", "knows"]

knows = is_timm


def create(name: str, **kwargs: Any) -> ChainBackbone:
    """The network of that name with random weights; `kwargs` go to timm."""
    return chained(name, **kwargs)
