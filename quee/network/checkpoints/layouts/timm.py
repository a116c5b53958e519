"""timm's names, and those of MAE's pre-training and of DeiT III's authors, which timm's VisionTransformer accepts."""

from quee.network.checkpoints.layout import Layout, same
from quee.network.checkpoints.layouts.sizes import vit_of_weights

_BLOCK = r"blocks\.0\.norm1\.weight"

LAYOUT = Layout("timm ViT", _BLOCK, same, unused=r"^mask_token$", named=vit_of_weights)
DEIT3 = Layout("DeiT III, the authors' names", r"blocks\.0\.gamma_1", same, also=r"(?:^|[./])pos_embed$")
RELATIVE = Layout("timm's ViT with relative positions", r"blocks\.0\.attn\.rel_pos\S*", same)
MAE = Layout(
    "ViT of MAE pre-training, timm's names",
    _BLOCK,
    same,
    also=r"decoder_blocks\.0\.",
    unused=r"^decoder_|^mask_token$",
)
