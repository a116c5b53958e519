"""torchvision's Swin Transformer, version 1."""

from quee.network.checkpoints.layout import Layout, State, rename
from quee.network.checkpoints.layouts.sizes import swin_of_weights
from quee.network.checkpoints.layouts.torchvision_vit import NOTE

_RULES = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)


def convert(state: State) -> State:
    """Stages are the odd parts of `features`; what halves the image before a stage is the even part before it."""
    rules = [*_RULES]
    for stage in range(4):
        rules += [
            (rf"^features\.{2 * stage}\.(norm|reduction)\.", rf"layers.{stage}.downsample.\1."),
            (rf"^features\.{2 * stage + 1}\.(\d+)\.", rf"layers.{stage}.blocks.\1."),
        ]
    found = rename(state, rules)
    return {key: value for key, value in found.items() if not key.endswith("relative_position_index")}


LAYOUT = Layout(
    "torchvision's Swin Transformer",
    r"features\.1\.0\.attn\.relative_position_bias_table",
    convert,
    named=swin_of_weights,
    note=NOTE,
)
