"""What a chain of timm's modules gives besides its logits: states, pooling, default gates, weights in timm's layouts."""

from typing import Any

import pytest
import timm
import torch

from quee.cost import float_work, trace_cost
from quee.errors import UsageError
from quee.network.architectures import create_backbone, is_headless
from quee.network.architectures.timm_chain import TimmChain
from quee.network.base import equal_gates
from quee.network.cutting import chain_of
from quee.quantization.calibration import quantize_
from quee.quantization.folding import folded
from quee.settings.quantize import QuantizationConfig

SWIN: dict[str, Any] = {
    "patch_size": 4,
    "embed_dim": 16,
    "depths": (1, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "num_classes": 3,
}
TOKENS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 3,
}
NARROW: dict[str, Any] = {"img_size": 32, "num_classes": 3}


def built(name: str, **kwargs: Any) -> TimmChain:
    torch.manual_seed(0)
    backbone = create_backbone(name, **kwargs)
    assert isinstance(backbone, TimmChain)
    return backbone


@pytest.mark.parametrize("size", [(32, 48), (64, 64)], ids=str)  # maps of 64 px have as many places as channels
@torch.inference_mode()
def test_maps_with_channels_last_are_pooled_over_their_places(size: tuple[int, int]) -> None:
    backbone = built("swin_tiny_patch4_window7_224", img_size=size, **SWIN)
    assert backbone.block_names == ["layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1"]
    backbone.set_gates((1, 2, 3))
    state = backbone.forward_to(1, torch.randn(2, *backbone.input.shape))
    assert state.shape == (2, size[0] // 4, size[1] // 4, 16)
    assert [backbone.width(gate) for gate in (1, 2, 3)] == [16, 32, 32]
    pooled = backbone.pool(state, 1, "mean_max")
    torch.testing.assert_close(pooled, torch.cat([state.mean((1, 2)), state.amax((1, 2))], dim=1))
    assert backbone.segment_of("layers.1.downsample.reduction.weight") == 2  # merging begins the next block
    assert backbone.segment_of("patch_embed.norm.bias") == 1
    assert backbone.segment_of("norm.weight") == backbone.segment_of("head.fc.bias") == 0
    assert backbone.logits_layer == "head.fc"


@torch.inference_mode()
def test_a_class_token_is_pooled_where_the_state_has_one() -> None:
    beit = built("beit_base_patch16_224", **TOKENS)
    state = beit.forward_to(1, torch.randn(2, *beit.input.shape))
    assert state.shape == (2, 17, 32)
    torch.testing.assert_close(beit.pool(state, 1, "cls_mean"), torch.cat([state[:, 0], state[:, 1:].mean(1)], dim=1))
    assert torch.equal(beit.pool(state, 1, "cls"), state[:, 0])
    cait = built("cait_xxs24_224", **TOKENS)  # its class token comes behind the blocks
    state = cait.forward_to(1, torch.randn(2, *cait.input.shape))
    assert state.shape == (2, 16, 32)
    torch.testing.assert_close(cait.pool(state, 1, "mean_max"), torch.cat([state.mean(1), state.amax(1)], dim=1))


def test_weights_for_another_window_or_of_the_authors_layout_fit() -> None:
    given = built("swin_tiny_patch4_window7_224", img_size=32, **SWIN | {"window_size": 2}).state_dict()
    backbone = built("swin_tiny_patch4_window7_224", img_size=32, **SWIN)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert given[table].shape == (9, 2)
    fitted = backbone.adapt_state(given)
    assert fitted[table].shape == backbone.state_dict()[table].shape == (49, 2)
    backbone.load_state_dict(fitted)
    theirs = {
        k.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): v for k, v in given.items()
    }
    assert set(backbone.adapt_state(theirs)) == set(given)


def test_a_layer_that_its_module_does_not_call_can_be_rounded_by_learning() -> None:
    beit = built("beit_base_patch16_224", **TOKENS | {"depth": 2})
    x = torch.randn(16, *beit.input.shape)
    expected = beit(x).detach()
    quantized = quantize_(beit, QuantizationConfig("w6a6", "best", iterations=3), [x])
    assert (quantized(x) - expected).norm() < 0.2 * expected.norm()


def test_networks_without_a_head_need_a_number_of_classes() -> None:
    assert is_headless("eva02_tiny_patch14_224")
    with pytest.raises(UsageError, match="no classification head of its own; give num_classes"):
        create_backbone("eva02_tiny_patch14_224")


def test_default_gates_divide_the_products() -> None:
    backbone = built("swin_tiny_patch4_window7_224", img_size=32, **SWIN | {"depths": (2, 6)})
    done = [piece.macs for piece in backbone.chain.pieces[1:-1]]
    shares = [sum(done[:gate]) / sum(done) for gate in backbone.gates]
    assert len(shares) == 4
    assert all(abs(share - wanted) < 0.1 for share, wanted in zip(shares, (0.25, 0.5, 0.75, 1), strict=True))


@pytest.mark.parametrize(
    ("name", "blocks", "first", "last"),
    [
        ("resnet18", 8, "layer1.0", "layer4.1"),
        ("resnet152", 50, "layer1.0", "layer4.2"),
        ("convnext_tiny", 18, "stages.0.blocks.0", "stages.3.blocks.2"),
        ("efficientnet_b0", 16, "blocks.0.0", "blocks.6.0"),
        ("mobilenetv3_small_050", 11, "blocks.0.0", "blocks.4.2"),  # the last 1×1 convolution belongs to the head
    ],
)
def test_the_chain_has_the_blocks_of_the_published_network(name: str, blocks: int, first: str, last: str) -> None:
    with torch.device("meta"):
        chain = chain_of(timm.create_model(name).eval(), (3, 64, 64))
    assert (len(chain.blocks), chain.blocks[0], chain.blocks[-1]) == (blocks, first, last)


def test_a_downsampling_layer_belongs_to_the_block_behind_it() -> None:
    backbone = create_backbone("convnext_atto", **NARROW, depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), patch_size=2)
    assert backbone.block_names[1] == "stages.1.blocks.0"
    assert backbone.block_of("stages.1.downsample.1.weight") == backbone.block_of("stages.1.blocks.0.gamma") == 1
    assert [backbone.block_of(name) for name in ("stem.0.weight", "head.fc.weight", "stages.1")] == [None, None, None]
    assert [backbone.width(gate) for gate in (1, 2, 3, 4)] == [8, 12, 16, 20]
    assert (backbone.segment_of("stem.0"), backbone.segment_of("head.norm"), backbone.logits_layer) == (1, 0, "head.fc")


def test_gates_share_the_multiply_adds_equally() -> None:
    assert equal_gates([1] * 12) == (3, 6, 9, 12)
    assert equal_gates([9, 1, 1, 1, 1, 1, 1, 1]) == (1, 2, 4, 8)
    assert equal_gates([1, 1, 1, 1, 1, 1, 1, 9]) == (4, 6, 7, 8)
    assert equal_gates([5, 5]) == (1, 2)


def test_grey_images_of_any_size_have_the_means_of_the_colours() -> None:
    backbone = create_backbone("resnet18", img_size=(40, 48), in_chans=1, num_classes=2, layers=(1, 1, 1, 1))
    assert backbone.input.shape == (1, 40, 48)
    assert len(backbone.input.mean) == 1
    assert backbone(torch.zeros(2, 1, 40, 48)).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "sums"),
    [
        ("resnet18", [1] * 8),
        ("vgg11", [0] * 10),  # without skips
        ("efficientnet_b0", [0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0]),  # only where width and size stay
        ("beit_base_patch16_224", [2] * 12),
    ],
)
def test_residual_sums_are_counted_where_a_block_has_them(name: str, sums: list[int]) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name)
        counted = {part.name: part.elements for part in trace_cost(backbone).elementwise if "residual" in part.name}
    assert [backbone.residuals_of(block) for block in range(len(sums))] == sums
    assert set(counted) == {f"{block}.residual" for block, of in zip(backbone.block_names, sums, strict=True) if of}


def test_what_stays_in_floating_point_is_listed() -> None:
    backbone = create_backbone("test_efficientnet", **NARROW)
    cost = trace_cost(backbone)
    work = {each.kind: each for each in float_work(folded(backbone), cost)}
    assert work["SiLU"].elements > 0
    assert any("squeeze-and-excitation" in kind for kind in work)
    assert not any("BatchNorm" in kind for kind in work)
