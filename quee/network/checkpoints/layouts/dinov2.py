"""DINOv2 under the authors' names, which timm's VisionTransformer accepts."""

from quee.network.checkpoints.layout import Layout, State, rename


def convert(state: State) -> State:
    """Training in chunks of blocks puts the number of the chunk into names; it is removed."""
    return rename(state, ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),))


LAYOUT = Layout("DINOv2, the authors' names", r"blocks\.0\.(?:0\.)?ls1\.gamma", convert, also=r"mask_token$")
