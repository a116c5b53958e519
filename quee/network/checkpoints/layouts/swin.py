"""Swin Transformer, versions 1 and 2, under timm's and the authors' names."""

import re

from quee.network.checkpoints.layout import Layout, State
from quee.network.checkpoints.layouts.sizes import swin_of_weights, swin_v2_of_weights


def downsampled_first(state: State) -> State:
    """The authors' networks halve the image at the end of a stage, timm's at the beginning of the next; without buffers.

    Tables of coordinates are kept, because they tell the window; timm's filter leaves them out.
    """
    buffers = ("relative_position_index", "attn_mask")
    found = {key: value for key, value in state.items() if not key.endswith(buffers)}
    if "layers.0.downsample.reduction.weight" not in found:
        return found

    def moved(key: str) -> str:
        return re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", key)

    return {re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", moved(key)): value for key, value in found.items()}


LAYOUT = Layout(
    "Swin Transformer, timm's or the authors' names",
    r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table",
    downsampled_first,
    named=swin_of_weights,
)
V2 = Layout(
    "Swin Transformer V2, timm's or the authors' names",
    r"layers\.0\.blocks\.0\.attn\.cpb_mlp\.0\.weight",
    downsampled_first,
    named=swin_v2_of_weights,
)
