"""torchvision's ConvNeXt."""

from quee.network.checkpoints.layout import Layout, State, rename
from quee.network.checkpoints.layouts.sizes import convnext
from quee.network.checkpoints.layouts.torchvision_vit import NOTE

_RULES = (
    (r"^features\.0\.([01])\.", r"stem.\1."),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)


def convert(state: State) -> State:
    """Stages are the odd parts of `features`; what halves the image before a stage is the even part before it."""
    rules = [*_RULES]
    for stage in range(4):
        rules += [
            (rf"^features\.{2 * stage}\.([01])\.", rf"stages.{stage}.downsample.\1."),
            (rf"^features\.{2 * stage + 1}\.(\d+)\.", rf"stages.{stage}.blocks.\1."),
        ]
    found = rename(state, rules)
    return {key: value.flatten() if key.endswith(".gamma") else value for key, value in found.items()}


LAYOUT = Layout(
    "torchvision's ConvNeXt",
    r"features\.1\.0\.block\.0\.weight",
    convert,
    named=convnext,
    also=r"layer_scale$",
    note=NOTE,
)
