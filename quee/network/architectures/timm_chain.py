"""Any other classifier of timm by timm's name, if it is a chain of blocks (`quee/network/cutting.py`)."""

from quee.network.timm_chain import create, is_headless
from quee.network.timm_chain import is_timm as knows

__all__ = ["create", "is_headless", "knows"]
