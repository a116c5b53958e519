"""Swin (Liu et al. 2021, arXiv 2103.14030) and Swin v2 (arXiv 2111.09883) through timm, by timm's names.

States are maps (n, h, w, c). Merging of patches belongs to the block that begins the stage. Position biases and masks of
shifted windows are added in floating point.
"""

from quee.network.timm_chain import create, is_headless
from quee.network.timm_chain import is_timm as knows

__all__ = ["create", "is_headless", "knows"]
