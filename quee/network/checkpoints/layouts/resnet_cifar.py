"""ResNet for CIFAR: names of github.com/akamaster/pytorch_resnet_cifar10, or with torchvision's `fc` and `downsample`."""

from quee.network.checkpoints.layout import Layout, renaming

_RULES = (
    (r"^(?:linear|fc)\.", "head."),
    (r"\.downsample\.", ".shortcut."),
)

LAYOUT = Layout(
    "ResNet for CIFAR",
    r"layer1\.0\.conv1\.weight",
    renaming(*_RULES),
    architecture="quee.network.architectures.resnet_cifar",
    note="the public weights for CIFAR-10 want ImageNet's mean and deviation, which the backbone takes",
)
