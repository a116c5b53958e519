"""Hugging Face's ResNet."""

from quee.errors import QueeError
from quee.network.checkpoints.layout import Config, Layout, Named, Size, State, rename
from quee.network.checkpoints.layouts.hugging_face import agree, at_size, has_activation, refuse
from quee.network.checkpoints.layouts.sizes import depths, resnet

_RULES = (
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^classifier\.1\.", "fc."),
)


def convert(state: State) -> State:
    """Stages and convolutions are counted from 1 in timm's names, from 0 in transformers'."""
    rules = [*_RULES]
    for number in range(4):
        rules += [
            (rf"^encoder\.stages\.{number}\.layers\.", f"layer{number + 1}."),
            (rf"\.layer\.{number}\.convolution\.", f".conv{number + 1}."),
            (rf"\.layer\.{number}\.normalization\.", f".bn{number + 1}."),
        ]
    return rename(state, rules)


def configured(config: Config, state: State, size: Size | None) -> Named:
    refuse(config, {"downsample_in_first_stage": True, "downsample_in_bottleneck": True})
    has_activation(config, "relu", "a ResNet")
    found = resnet(state)
    if found is None:
        raise QueeError("config.json: embedding_size other than 64 is not run here")
    agree(config, "depths", depths(state, "layer{}", range(1, 5)))
    return Named(found.name, {**found.kwargs, **at_size(size)})


LAYOUT = Layout(
    "Hugging Face ResNet",
    r"(?:resnet\.)?embedder\.embedder\.convolution\.weight",
    convert,
    named=resnet,
    model_types=("resnet",),
    configured=configured,
)
