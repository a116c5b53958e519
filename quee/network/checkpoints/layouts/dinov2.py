"""DINOv2 under the authors' names, which timm's VisionTransformer accepts."""

from quee.network.checkpoints.layout import Layout, renaming

_CHUNKS = (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")
"""Training in chunks of blocks puts the number of the chunk into names; it is removed."""

LAYOUT = Layout("DINOv2, the authors' names", r"blocks\.0\.(?:0\.)?ls1\.gamma", renaming(_CHUNKS), also=r"mask_token$")
