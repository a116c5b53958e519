"""ResNet for CIFAR: names of github.com/akamaster/pytorch_resnet_cifar10, or with torchvision's `fc` and `downsample`."""

from quee.network.checkpoints.layout import Layout, State, rename

_RULES = (
    (r"^(?:linear|fc)\.", "head."),
    (r"\.downsample\.", ".shortcut."),
)


def convert(state: State) -> State:
    return rename(state, _RULES)


LAYOUT = Layout(
    "ResNet for CIFAR",
    r"layer1\.0\.conv1\.weight",
    convert,
    architecture="quee.network.architectures.resnet_cifar",
    note="the public weights for CIFAR-10 want ImageNet's mean and deviation, which the backbone takes",
)
