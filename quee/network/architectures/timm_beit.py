"""BEiT (Bao et al. 2021, arXiv 2106.08254) and BEiT v2 (arXiv 2208.06366) through timm, by timm's names.

States are tokens, the class token first. Position biases are added in floating point. The bias of query, key and value is
outside of their layer in the state dict, and stays so.
"""

from quee.network.timm_chain import create, is_headless
from quee.network.timm_chain import is_timm as knows

__all__ = ["create", "is_headless", "knows"]
