"""MMPretrain's VisionTransformer."""

from quee.network.checkpoints.layout import Layout, renaming
from quee.network.checkpoints.layouts.sizes import vit_of_weights

_RULES = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^ln1\.", "norm."),
)

LAYOUT = Layout(
    "MMPretrain ViT",
    r"layers\.0\.ffn\.layers\.0\.0\.weight",
    renaming(*_RULES),
    also=r"(^|\.)ln1\.weight$",
    named=vit_of_weights,
)
