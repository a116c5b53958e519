"""What a chain of timm's modules gives besides its logits: states, pooling, default gates, weights in timm's layouts."""

from typing import Any

import pytest
import torch

from quee.errors import UsageError
from quee.network.architectures import create_backbone, is_headless
from quee.network.timm_chain import TimmChain

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
    pooled = backbone.pool(state, 1)
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
    torch.testing.assert_close(beit.pool(state, 1), torch.cat([state[:, 0], state[:, 1:].mean(1)], dim=1))
    assert torch.equal(beit.pool(state, 1, "cls"), state[:, 0])
    cait = built("cait_xxs24_224", **TOKENS)  # its class token comes behind the blocks
    state = cait.forward_to(1, torch.randn(2, *cait.input.shape))
    assert state.shape == (2, 16, 32)
    torch.testing.assert_close(cait.pool(state, 1), torch.cat([state.mean(1), state.amax(1)], dim=1))


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
