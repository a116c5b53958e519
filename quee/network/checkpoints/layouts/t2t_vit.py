"""T2T-ViT, which keeps the authors' names."""

from quee.network.checkpoints.layout import Layout, same

LAYOUT = Layout("T2T-ViT, the authors' names", r"tokens_to_token\.project\.weight", same)
