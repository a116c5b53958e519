"""torchvision's VisionTransformer, in older and newer versions."""

from quee.network.checkpoints.layout import Layout, renaming
from quee.network.checkpoints.layouts.sizes import vit_of_weights

_RULES = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)

NOTE = (
    "torchvision's own weights want preprocessing={mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}, and "
    "interpolation and crop_pct as their weights.transforms() says"
)

LAYOUT = Layout(
    "torchvision ViT",
    r"encoder\.layers\.encoder_layer_0\.ln_1\.weight",
    renaming(*_RULES),
    named=vit_of_weights,
    note=NOTE,
)
