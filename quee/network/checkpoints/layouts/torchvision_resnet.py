"""ResNet and its wider and grouped kin, under torchvision's names, which timm's are."""

from quee.network.checkpoints.layout import Layout, same
from quee.network.checkpoints.layouts.sizes import resnet

LAYOUT = Layout("torchvision's or timm's ResNet", r"layer4\.0\.conv1\.weight", same, named=resnet)
