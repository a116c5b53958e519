"""Sizes of images that weights may have been trained on, where neither their file nor their shapes tell.

Weights of convolutional networks, and of others without a table of positions, have the same shapes for every size. At a
size far from that of the training their answers are poor, down to chance.
"""

from collections.abc import Sequence

import torch

from quee.errors import QueeError, UsageError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone

USUAL = (32, 64, 96, 128, 160, 224, 256, 288, 384)
"""Sides of the square images that networks are usually trained on."""
NEIGHBOURS = 1.34
"""Ratio of two sides up to which a network hardly tells them apart."""
LARGEST = 512
"""Largest side of a data set's own images that is tried."""


def candidates(backbone: SegmentedBackbone, own: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Sides that may be tried, rising, with the backbone's own; none where its weights fit one size alone.

    `own` are height and width of the images, if all have the same.
    """
    height, width = backbone.input.size
    if height != width or not _is_free(backbone):
        return ()
    theirs = () if own is None or min(own) > LARGEST else (min(own),)
    return tuple(sorted({*USUAL, *theirs, height}))


def resized(backbone: SegmentedBackbone, side: int) -> SegmentedBackbone | None:
    """The same network for images of another side, sharing the weights; None where they do not fit that size."""
    made = _built(backbone, side)
    if made is None or _shapes(made) != _shapes(backbone):
        return None
    made.load_state_dict(backbone.state_dict(), assign=True)
    made.input = backbone.input.resized(side)
    return made.eval()


def sharing(backbone: SegmentedBackbone, side: int) -> SegmentedBackbone:
    """The same network for images of another side, on the same weights, so that training one trains the other.

    Tensors that have another shape there and are not trained, such as a fixed table of positions, are its own.
    Raises UsageError where the network takes no images of that side, or trains a tensor that has another shape there.
    """
    if backbone.made_with is None:
        raise UsageError(f"{backbone.name} was not made by its name, so it cannot be made for images of {side} pixels")
    try:
        made = create_backbone(backbone.name, backbone.gates, **{**backbone.made_with, "img_size": side})
    except UsageError as error:
        raise UsageError(f"{backbone.name} takes no images of {side} pixels: {error}") from None
    own, trained = made.state_dict(), dict(backbone.named_parameters())
    state = backbone.state_dict(keep_vars=True)
    other = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    learned = [name for name in other if name not in own or (name in trained and trained[name].requires_grad)]
    if learned or len(own) != len(state):
        why = f"it trains {learned[0]!r}, which has another shape there" if learned else "it has other layers there"
        raise UsageError(f"{backbone.name} cannot be trained on images of {side} pixels too: {why}")
    trains = {name: parameter.requires_grad for name, parameter in trained.items()}
    shared = {name: value for name, value in state.items() if name not in other}
    made.load_state_dict(shared, strict=False, assign=True)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(trains[name])
    made.input = backbone.input.resized(side)
    return made


def neighbours(one: int, other: int) -> bool:
    return max(one, other) <= NEIGHBOURS * min(one, other)


def far_apart(sides: Sequence[int]) -> tuple[int, ...]:
    """Of rising sides the greatest, and going down those that are about half of the one before, or less."""
    found = list(sides[-1:])
    for side in reversed(sides[:-1]):
        if side <= 0.6 * found[-1]:
            found.append(side)
    return tuple(reversed(found))


def _is_free(backbone: SegmentedBackbone) -> bool:
    """Whether the shapes of the weights are the same for images of twice the side."""
    with torch.device("meta"):
        other = _built(backbone, 2 * backbone.input.size[0])
    return other is not None and _shapes(other) == _shapes(backbone)


def _built(backbone: SegmentedBackbone, side: int) -> SegmentedBackbone | None:
    """The backbone of the same name and keywords for another side, with random weights; None where there is none."""
    if backbone.made_with is None:
        return None
    try:
        return create_backbone(backbone.name, backbone.gates, **{**backbone.made_with, "img_size": side})
    except QueeError:
        return None


def _shapes(backbone: SegmentedBackbone) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in backbone.state_dict().items()}
