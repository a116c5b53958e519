"""ResNet (He et al. 2016, arXiv 1512.03385) and its relatives of timm: the D tweaks, ResNeXt, squeeze-and-excitation."""

from quee.network.timm_chain import create, is_headless
from quee.network.timm_chain import is_timm as knows

__all__ = ["create", "is_headless", "knows"]
