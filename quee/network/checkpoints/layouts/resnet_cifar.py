"""ResNet for CIFAR: names of github.com/akamaster/pytorch_resnet_cifar10, or with torchvision's `fc` and `downsample`."""

from importlib import import_module

from quee.network.checkpoints.layout import Layout, Named, State, renaming

_RULES = (
    (r"^(?:linear|fc)\.", "head."),
    (r"\.downsample\.", ".shortcut."),
)


def named(state: State) -> Named:
    """As the architecture says; imported by name, because stages depend on the architecture of their backbone alone."""
    return Named(*import_module("quee.network.architectures.resnet_cifar").named(state))


LAYOUT = Layout(
    "ResNet for CIFAR",
    r"layer1\.0\.conv1\.weight",
    renaming(*_RULES),
    named=named,
    note="the public weights for CIFAR-10 want ImageNet's mean and deviation, which the backbone takes",
)
