"""EVA and DINOv3, which have rotary positions, under timm's names and DINOv3's authors'; their names do not tell heads."""

from quee.network.checkpoints.layout import Layout, same

LAYOUT = Layout("EVA, timm's names", r"blocks\.0\.attn\.(?:rope\S*|q_proj\.weight)", same)
DINOV3 = Layout("DINOv3, the authors' names", r"rope_embed\.\S+|storage_tokens", same, unused=r"^mask_token$")
