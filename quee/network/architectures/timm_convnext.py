"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808) of timm."""

from quee.network.timm_chain import create, is_headless
from quee.network.timm_chain import is_timm as knows

__all__ = ["create", "is_headless", "knows"]
