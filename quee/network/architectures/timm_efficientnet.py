"""EfficientNet (Tan and Le 2019, arXiv 1905.11946), MobileNet V2 to V4 and their relatives of timm: depthwise convolutions."""

from quee.network.timm_chain import create, is_headless
from quee.network.timm_chain import is_timm as knows

__all__ = ["create", "is_headless", "knows"]
