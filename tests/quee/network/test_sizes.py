"""Sizes of images that weights leave unsaid."""

import torch

from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.sizes import USUAL, candidates, far_apart, resized


def convolutions(side: int) -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("resnet20_cifar", num_classes=3, depth=3, img_size=side)


def test_weights_of_convolutions_fit_every_size_and_those_with_a_table_of_positions_one() -> None:
    assert candidates(convolutions(48)) == tuple(sorted({*USUAL, 48}))
    assert candidates(convolutions(48), (20, 30)) == tuple(sorted({*USUAL, 20, 48}))
    assert candidates(convolutions(48), (2000, 3000)) == tuple(sorted({*USUAL, 48}))
    vit = create_backbone("vit_digits", num_classes=3, depth=2, embed_dim=16, num_heads=2)
    assert candidates(vit) == () and resized(vit, 2 * vit.input.size[0]) is None


def test_the_same_network_at_another_size_shares_its_weights() -> None:
    own = convolutions(48)
    made = resized(own, 16)
    assert made is not None and made.input == own.input.resized(16)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(made(x), own(x))
    assert all(value.data_ptr() == own.state_dict()[name].data_ptr() for name, value in made.state_dict().items())


def test_a_coarse_choice_of_sizes_has_the_greatest_and_goes_down_by_halves() -> None:
    assert far_apart((32, 64, 96, 128, 160, 224)) == (32, 64, 128, 224)
    assert far_apart((32,)) == (32,) and far_apart(()) == ()
