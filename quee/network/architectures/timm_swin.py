"""Swin (Liu et al. 2021, arXiv 2103.14030) and Swin v2 (arXiv 2111.09883) through timm, by timm's names.

States are maps (n, h, w, c). Merging of patches belongs to the block that begins the stage. Position biases and masks of
shifted windows are added in floating point.
"""

from typing import Any

from quee.network.chain import ChainBackbone, chained, is_headless, is_timm

__all__ = ["create", "is_headless", "knows"]

knows = is_timm


def create(name: str, **kwargs: Any) -> ChainBackbone:
    """The network of that name with random weights; `kwargs` go to timm. Windows are as large as there unless `window_size` is given."""
    return chained(name, **kwargs)
