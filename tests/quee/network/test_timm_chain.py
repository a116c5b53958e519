"""Chains of stages are found in timm's networks, and what is no chain is refused with the reason."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from quee.cost import float_work, trace_cost
from quee.errors import UsageError
from quee.network.architectures import create_backbone
from quee.network.timm_chain import chain_of, equal_gates
from quee.quantization.folding import folded

NARROW: dict[str, Any] = {"img_size": 32, "num_classes": 3}


def on_meta(name: str, **kwargs: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@pytest.mark.parametrize(
    ("name", "blocks", "stem", "tail"),
    [
        ("resnet18", 8, ("conv1", "bn1", "act1", "maxpool"), ()),
        ("resnet152", 50, ("conv1", "bn1", "act1", "maxpool"), ()),
        ("convnext_tiny", 18, ("stem",), ("norm_pre",)),
        ("efficientnet_b0", 16, ("conv_stem", "bn1"), ("conv_head", "bn2")),
        ("mobilenetv3_small_050", 12, ("conv_stem", "bn1"), ()),
    ],
)
def test_the_chain_has_the_blocks_of_the_published_network(
    name: str, blocks: int, stem: tuple[str, ...], tail: tuple[str, ...]
) -> None:
    chain = chain_of(on_meta(name), (3, 64, 64))
    assert (len(chain.blocks), chain.stem, chain.tail) == (blocks, stem, tail)


def test_a_downsampling_layer_belongs_to_the_block_behind_it() -> None:
    backbone = create_backbone("convnext_atto", **NARROW, depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), patch_size=2)
    assert backbone.block_names[1] == "stages.1.blocks.0"
    assert backbone.block_of("stages.1.downsample.1.weight") == backbone.block_of("stages.1.blocks.0.gamma") == 1
    assert [backbone.block_of(name) for name in ("stem.0.weight", "head.fc.weight", "stages.1")] == [None, None, None]
    assert [backbone.width(gate) for gate in (1, 2, 3, 4)] == [8, 12, 16, 20]
    assert (backbone.segment_of("stem.0"), backbone.segment_of("head.norm"), backbone.logits_layer) == (1, 0, "head.fc")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("densenet121", "a DenseNet cannot be cut: it has no stages of blocks"),
        ("vgg11", "a VGG cannot be cut: it has no stages of blocks"),
        (
            "hrnet_w18_small",
            "a HighResolutionNet cannot be cut: between transition1.0 and transition1.1, more",
        ),
        ("coat_tiny", "a CoaT cannot be cut: between patch_embed1 and serial_blocks1.0, more"),
    ],
)
def test_what_is_no_chain_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        chain_of(on_meta(name), (3, 224, 224))
    assert "\n" not in str(raised.value)


class Stages(nn.Module):
    """Two blocks in a stage, and a sum with the stem's output behind them, in place."""

    def __init__(self, adds: bool) -> None:
        super().__init__()
        self.stem, self.adds = nn.Conv2d(1, 4, 1), adds
        self.stage = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(2)))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.stage(x)
        return y.add_(x) if self.adds else y


def test_a_sum_in_place_behind_a_module_breaks_the_chain() -> None:
    assert len(chain_of(Stages(adds=False), (1, 8, 8)).blocks) == 2
    with pytest.raises(UsageError, match="between stage and its output"):
        chain_of(Stages(adds=True), (1, 8, 8))


def test_gates_share_the_multiply_adds_equally() -> None:
    assert equal_gates([1] * 12) == (3, 6, 9, 12)
    assert equal_gates([9, 1, 1, 1, 1, 1, 1, 1]) == (1, 2, 4, 8)
    assert equal_gates([1, 1, 1, 1, 1, 1, 1, 9]) == (4, 6, 7, 8)
    assert equal_gates([5, 5]) == (1, 2)


def test_weights_without_a_head_need_a_number_of_classes() -> None:
    with pytest.raises(UsageError, match="give num_classes among its kwargs"):
        create_backbone("convnextv2_atto.fcmae")
    assert create_backbone("convnextv2_atto.fcmae", **NARROW).num_classes == 3


def test_grey_images_of_any_size_have_the_means_of_the_colours() -> None:
    backbone = create_backbone("resnet18", img_size=(40, 48), in_chans=1, num_classes=2, layers=(1, 1, 1, 1))
    assert backbone.input.shape == (1, 40, 48)
    assert len(backbone.input.mean) == 1
    assert backbone(torch.zeros(2, 1, 40, 48)).shape == (2, 2)


def test_what_stays_in_floating_point_is_listed() -> None:
    backbone = create_backbone("test_efficientnet", **NARROW)
    cost = trace_cost(backbone)
    work = {each.kind: each for each in float_work(folded(backbone), cost)}
    assert work["SiLU"].elements > 0
    assert any("squeeze-and-excitation" in kind for kind in work)
    assert not any("BatchNorm" in kind for kind in work)
