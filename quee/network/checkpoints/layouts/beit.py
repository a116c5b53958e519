"""BEiT under timm's names, which are its authors'."""

from quee.network.checkpoints.layout import Layout, State
from quee.network.checkpoints.layouts.sizes import beit_of_weights


def convert(state: State) -> State:
    """Without buffers."""
    return {key: value for key, value in state.items() if not key.endswith(("relative_position_index", "k_bias"))}


LAYOUT = Layout(
    "BEiT, timm's or the authors' names",
    r"blocks\.0\.attn\.q_bias",
    convert,
    also=r"relative_position_bias_table",
    unused=r"^mask_token$",
    named=beit_of_weights,
)
