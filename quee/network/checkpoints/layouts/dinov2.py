"""DINOv2, the authors' names, which TimmViT takes."""

from quee.network.checkpoints.layout import Layout, State, rename


def convert(state: State) -> State:
    """Of training in chunks of blocks, the number of the chunk is taken off."""
    return rename(state, ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),))


LAYOUT = Layout("DINOv2, the authors' names", r"blocks\.0\.(?:0\.)?ls1\.gamma", convert, also=r"mask_token$")
