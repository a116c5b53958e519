"""Sizes of images that weights leave unsaid."""

import pytest
import torch

from quee.errors import UsageError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.sizes import USUAL, candidates, far_apart, resized, sharing


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


def t2t(side: int = 32) -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("t2t_vit_7", num_classes=3, depth=1, dim=16, heads=2, img_size=side)


@pytest.mark.parametrize("own", [convolutions(32), t2t()])
def test_training_a_network_at_one_size_trains_it_at_the_others(own: SegmentedBackbone) -> None:
    small = sharing(own, 16).train()
    assert small.input == own.input.resized(16)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.1)
    small(torch.randn(4, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    fixed = {name for name, parameter in own.named_parameters() if not parameter.requires_grad}
    moved = {name for name, value in own.state_dict().items() if not torch.equal(value, before[name])}
    learned = {name for name, parameter in own.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, parameter in own.named_parameters() if parameter.requires_grad}
    assert len(moved & learned) > 0.9 * len(learned)
    assert not moved & fixed
    assert {name for name, parameter in small.named_parameters() if not parameter.requires_grad} == fixed
    assert torch.equal(own.state_dict()["pos_embed"], t2t().state_dict()["pos_embed"]) if "pos_embed" in fixed else True


def test_a_network_that_trains_its_table_of_positions_has_one_size() -> None:
    vit = create_backbone("vit_digits", num_classes=3, depth=2, embed_dim=16, num_heads=2)
    with pytest.raises(
        UsageError, match="vit_digits cannot be trained on images of 16 pixels too: it trains 'pos_embed'"
    ):
        sharing(vit, 16)
    with pytest.raises(UsageError, match="t2t_vit_7 takes no images of 24 pixels: .* multiple of 16"):
        sharing(t2t(), 24)
