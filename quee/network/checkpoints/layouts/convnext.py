"""ConvNeXt, versions 1 and 2, under timm's names and under the authors'."""

from collections.abc import Iterable

from quee.network.checkpoints.layout import Layout, State, rename, same
from quee.network.checkpoints.layouts.sizes import convnext

_RULES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.", "head.fc."),
    (r"^head\.fc\.norm\.", "head.norm."),
)


def renamed(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """timm's names by the rules; the weights of response normalisation have one axis there, and four in the others."""
    found = rename(state, rules)
    return {key: value.flatten() if ".grn." in key else value for key, value in found.items()}


LAYOUT = Layout("timm's ConvNeXt", r"stages\.0\.blocks\.0\.conv_dw\.weight", same, named=convnext)
AUTHORS = Layout(
    "ConvNeXt, the authors' names",
    r"stages\.0\.0\.dwconv\.weight",
    lambda state: renamed(state, _RULES),
    named=convnext,
)
