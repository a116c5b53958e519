"""DINOv2 with the published linear heads, and its weights in the authors' layout."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from quee.errors import QueeError, UsageError
from quee.network.architectures import create_backbone
from quee.network.checkpoints.reading import fit_state, head_layers, read_checkpoint, with_head

NAME = "vit_small_patch14_dinov2.lvd142m"
SMALL: dict[str, Any] = {"img_size": 56, "depth": 6, "embed_dim": 48, "num_heads": 4}


def original(img_size: int = 56, name: str = NAME) -> dict[str, Tensor]:
    """A backbone's state dict with random values, in the authors' layout."""
    state = timm.create_model(name, **{**SMALL, "img_size": img_size}).state_dict()
    random = torch.Generator().manual_seed(0)
    state = {key: 0.3 * torch.randn(value.shape, generator=random) for key, value in state.items()}
    return {**state, "mask_token": torch.zeros(1, 48)}


def published_head(layers: int, classes: int = 7) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, (1 + layers) * 48, generator=random)
    return {"weight": weight, "bias": torch.randn(classes, generator=random)}


@pytest.mark.parametrize("layers", [1, 4])
@torch.inference_mode()
def test_published_heads_give_the_published_logits(layers: int, tmp_path: Path) -> None:
    torch.save(original(), tmp_path / "dinov2_vits14_pretrain.pth")
    torch.save(published_head(layers), tmp_path / "dinov2_vits14_linear_head.pth")
    state = read_checkpoint(tmp_path / "dinov2_vits14_pretrain.pth").state
    head = read_checkpoint(tmp_path / "dinov2_vits14_linear_head.pth").state
    assert head_layers(head, 48, "head") == layers
    backbone = create_backbone(NAME, layers=layers, num_classes=7, **SMALL)
    backbone.load_state_dict(fit_state(backbone, with_head(state, head, "head"), "pretrain"))

    features = timm.create_model(NAME, **SMALL).eval()
    features.load_state_dict({key: value for key, value in state.items() if key != "mask_token"})
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    last = features.get_intermediate_layers(images, n=layers, norm=True, return_prefix_tokens=True)
    joined = torch.cat([*(prefix[:, 0] for _, prefix in last), last[-1][0].mean(dim=1)], dim=1)
    expected = joined @ head["weight"].T + head["bias"]
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_four_layers_state_carries_the_class_tokens_and_pools_without_them() -> None:
    backbone = create_backbone(NAME, layers=4, num_classes=7, gates=(1, 2, 3, 4, 5, 6), **SMALL)
    plain = create_backbone(NAME, layers=1, num_classes=7, gates=(1, 2, 3, 4, 5, 6), **SMALL)
    plain.load_state_dict({**backbone.state_dict(), "head.weight": plain.state_dict()["head.weight"]})
    images = torch.randn(2, 3, 56, 56)
    tokens = [backbone.forward_to(gate, images).shape[1] for gate in range(1, 7)]
    assert tokens == [17, 17, 18, 19, 20, 20]
    for gate in range(1, 7):
        state, expected = backbone.forward_to(gate, images), plain.forward_to(gate, images)
        assert torch.equal(state[:, :17], expected)
        for pooling in backbone.poolings:
            assert torch.equal(backbone.pool(state, gate, pooling), plain.pool(expected, gate, pooling))


def test_default_size_and_preprocessing_are_those_of_the_linear_evaluation() -> None:
    backbone = create_backbone(NAME, depth=1)
    assert (backbone.input.size, backbone.input.crop_pct, backbone.num_classes) == ((224, 224), 0.875, 1000)
    assert backbone.state_dict()["pos_embed"].shape == (1, 257, 384)
    assert create_backbone(NAME, depth=1, img_size=518).input.crop_pct == 1.0


def test_positions_are_resampled_as_the_authors_do() -> None:
    backbone = create_backbone(NAME, num_classes=7, **SMALL)
    state = original(img_size=518)
    table = fit_state(backbone, state | {"head.weight": torch.zeros(7, 96), "head.bias": torch.zeros(7)}, "x")[
        "pos_embed"
    ]
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, 48).permute(0, 3, 1, 2)
    ratio = 4.1 / 37  # the authors add 0.1 to the new side
    expected = torch.nn.functional.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic")
    torch.testing.assert_close(table[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 16, 48))
    assert torch.equal(table[:, :1], state["pos_embed"][:, :1])


def test_registers_in_the_authors_layout_load() -> None:
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    backbone = create_backbone(name, num_classes=7, **SMALL)
    state = original(name=name)
    theirs = dict(state)
    position = torch.randn(1, 1, 48)
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["cls_token"] = state["cls_token"] - position
    theirs["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    loaded = fit_state(backbone, theirs, "reg4", new_head=True)
    for key in ("cls_token", "reg_token", "pos_embed"):
        torch.testing.assert_close(loaded[key], state[key])


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"weight": torch.zeros(7, 200), "bias": torch.zeros(7)}, r"96 \(1 layer\) or 240 \(4 layers\)"),
        ({"weight": torch.zeros(7, 144), "bias": torch.zeros(7)}, r"96 \(1 layer\) or 240 \(4 layers\)"),
        ({"weight": torch.zeros(7, 96), "bias": torch.zeros(6)}, "does not fit"),
        ({"weight": torch.zeros(7, 96)}, "expected the keys weight, bias; found weight"),
        (published_head(1) | {"norm": torch.zeros(1)}, "not a linear head"),
    ],
)
def test_another_head_is_refused(head: dict[str, Tensor], message: str) -> None:
    with pytest.raises(QueeError, match=message):
        with_head(original(), head, "head.pth")


def test_a_head_needs_a_backbone() -> None:
    with pytest.raises(UsageError, match="no cls_token"):
        with_head(published_head(1), published_head(1), "head.pth")


def test_a_head_of_other_layers_is_named_by_its_shape() -> None:
    backbone = create_backbone(NAME, layers=1, num_classes=7, **SMALL)
    with pytest.raises(QueeError, match=r"head.weight \(7, 240\) instead of \(7, 96\)"):
        fit_state(backbone, with_head(original(), published_head(4), "head"), "joined")
