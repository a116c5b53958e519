"""torchvision's Swin Transformer, versions 1 and 2."""

from quee.network.checkpoints.layout import Layout, State, rename
from quee.network.checkpoints.layouts.sizes import swin_of_weights, swin_v2_of_weights
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


def convert_v2(state: State) -> State:
    """Only query and value have biases, which stay outside of the joint matrix; torchvision sets that of the keys to 0."""
    found: State = {}
    for key, value in convert(state).items():
        if key.endswith(".attn.qkv.bias"):
            q, _, v = value.chunk(3)
            before = key.removesuffix("qkv.bias")
            found |= {f"{before}q_bias": q.clone(), f"{before}v_bias": v.clone()}
        else:
            found[key] = value
    return found


LAYOUT = Layout(
    "torchvision's Swin Transformer",
    r"features\.1\.0\.attn\.relative_position_bias_table",
    convert,
    named=swin_of_weights,
    note=NOTE,
)
V2 = Layout(
    "torchvision's Swin Transformer V2",
    r"features\.1\.0\.attn\.cpb_mlp\.0\.weight",
    convert_v2,
    named=swin_v2_of_weights,
    note=NOTE,
)
