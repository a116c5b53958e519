"""Messages for timm's other networks name networks that do run; no error of timm's gets through."""

import re
from typing import Any

import pytest
import timm
import torch

from quee.errors import UsageError
from quee.network.architectures import create_backbone, file_of, is_backbone, is_headless, module_of, names
from quee.network.names import DINOV3, unknown_backbone

UNCUT = {
    "densenet121": r"its blocks \(features.\w+.denselayer1 …\) read the outputs of all earlier blocks, so no gate cuts it$",
    "cspdarknet53": "behind stages.2.blocks.0 the network still reads 2 tensors, because connections go past this block",
    "hrnet_w18_small": "stage2 passes on 2 tensors, and a gate holds one",
    "crossvit_tiny_240": "blocks.0 passes on 2 tensors, and a gate holds one, so no gate cuts it$",
    "test_nfnet": "stem.conv1: nothing quantizes a ScaledStdConv2d",
}


@pytest.mark.parametrize("name", UNCUT)
def test_what_cannot_be_cut_or_quantized_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match=UNCUT[name]) as raised:
        create_backbone(name)
    assert str(raised.value).startswith(f"backbone {name!r} cannot be built: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    ["vit_smal_patch16_dinov3", "dinov3_vits16", "facebook/dinov3-vits16-pretrain-lvd1689m",
     "vit_small_patch14_dinov3.lvd142m", "DINOv3_ViT_S"],
)  # fmt: skip
def test_for_dinov3_no_dinov2_is_recommended(name: str) -> None:
    assert DINOV3.search(name)
    assert "dinov2" not in unknown_backbone(name, names()).partition("valid")[2]
    assert "did you mean" not in unknown_backbone(name, names())
    assert "valid for DINOv3: " in unknown_backbone(name, names())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("vit_digit", "did you mean 'vit_digits'"),
        ("t2t_vit_8", "did you mean 't2t_vit_"),
        ("vit_tiny_patch16_224.nothing", r"has no weights 'nothing'; valid: .*augreg_in21k"),
        ("timm/vit_tiny_patch16_224.augreg_in21k", r"names are timm's own: 'vit_tiny_patch16_224.augreg_in21k'"),
        ("hf-hub:timm/vit_tiny_patch16_224", r"names are timm's own: 'vit_tiny_patch16_224'"),
        (
            "xyz",
            r"^unknown backbone 'xyz'; valid: .* more: `quee\.network\.architectures\.names\(\)` lists them; and timm's: ",
        ),
        ("", "^unknown backbone ''; valid: "),
    ],
)
def test_misspelt_names_are_answered_with_near_ones(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        create_backbone(name)
    assert "\n" not in str(raised.value)


def test_headless_names_are_known() -> None:
    assert is_headless("vit_base_patch16_224.mae")
    assert not is_headless("vit_tiny_patch16_224")
    assert not is_headless("vit_digits")
    with pytest.raises(UsageError, match="give num_classes among its kwargs"):
        create_backbone("vit_base_patch16_224.mae")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"checkpoint_path": "x.pth"}, "checkpoint_path is not among its kwargs; weights are added by `quee weights add"),
    ({"pretrained": True}, "pretrained is not among its kwargs"),
    ({"pretrained_cfg": {"file": "x"}}, "pretrained_cfg is not among its kwargs"),
    ({"features_only": True}, "builds something else than a classifier"),
    ({"in_chans": 4}, r"in_chans 4; images are decoded to 1 channel \(grey\) or 3 \(RGB\)"),
    ({"in_chans": 2}, "in_chans 2"),
    ({"img_size": 10}, "smaller than one patch"),
    ({"img_size": "large"}, "cannot be built with"),
    ({"patch_size": 0}, "cannot be built with"),
    ({"norm_layer": "no_such_norm"}, "no_such_norm|cannot be built"),
    ({"act_layer": "no_such"}, "cannot be built with"),
    ({"init_values": "1e-5"}, "cannot be built with"),
    ({"depth": -1}, "cannot be built with|at least|range"),
    ({"embed_dim": 7}, "divisible"),
    ({"no_such_keyword": 1}, "no_such_keyword"),
    ({"num_classes": "ten"}, "cannot be built with"),
    ({"drop_path_rate": "much"}, "cannot be built with"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD)
def test_keywords_that_build_nothing_are_refused_in_one_line(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        create_backbone("vit_tiny_patch16_224", **{"num_classes": 7, "depth": 1, **kwargs})
    assert "\n" not in str(raised.value)
    assert re.search(r"\w", str(raised.value).rpartition(":")[2]), "timm's own words are missing"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_digits", "vit_fashion_mnist", "t2t_vit_7"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, (32, 48)], ids=str)
def test_the_input_is_that_of_the_keywords(name: str, channels: int, size: int | tuple[int, int]) -> None:
    backbone = create_backbone(name, num_classes=2, depth=1, in_chans=channels, img_size=size)
    given = backbone.input
    assert given.size == ((32, 32) if size == 32 else size)
    assert len(given.mean) == len(given.std) == given.channels == channels
    assert backbone(torch.zeros(1, *given.shape)).shape == (1, 2)


@pytest.mark.slow
def test_every_vision_transformer_of_timm_is_run_as_timm_runs_it() -> None:
    size: dict[str, Any] = {"embed_dim": 32, "num_heads": 4, "depth": 2, "num_classes": 5}
    run = []
    for name in timm.list_models(module=["vision_transformer", "deit"]):
        if "dinov2" in name:  # with a head that timm does not have
            continue
        size["img_size"] = 4 * int(match[1]) if (match := re.search(r"patch(\d+)", name)) else 64
        backbone = create_backbone(name, **size)
        original = timm.create_model(name, **size).eval()
        original.load_state_dict(backbone.state_dict())
        x = torch.randn(2, *backbone.input.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            torch.testing.assert_close(backbone(x), original(x), rtol=1e-3, atol=1e-4)
        run.append(name)
    assert len(run) > 100


def test_every_name_of_timm_is_of_a_module_that_knows_it() -> None:
    for name in timm.list_models():
        assert is_backbone(name), f"{module_of(name)} does not know {name}"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vit_digits", "timm_vit"),
        ("t2t_vit_14", "t2t_vit"),
        ("vit_base_patch14_dinov2.lvd142m", "dinov2"),
        ("deit_tiny_patch16_224", "timm_vit"),
        ("vit_small_patch16_rope_224", "timm_chain"),
        ("vit_base_patch16_siglip_224.v2_webli", "timm_chain"),
        ("vit_base_patch16_siglip_gap_224", "timm_vit"),
        ("beit3_base_patch16_224", "timm_chain"),
        ("swinv2_tiny_window8_256", "timm_chain"),
    ],
)
def test_a_backbones_file_is_known_from_its_name(name: str, file: str) -> None:
    assert file_of(name) == f"quee/network/architectures/{file}.py"
