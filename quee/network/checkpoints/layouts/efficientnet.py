"""EfficientNet, MobileNet and their kin under timm's names, which do not tell which they are."""

from quee.network.checkpoints.layout import Layout, same

LAYOUT = Layout("timm's EfficientNet or MobileNet", r"blocks\.0\.0\.conv_dw\.weight", same)
