"""Weights under other frameworks' names compute the same as in their own network."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from originals import HEADLESS, ORIGINALS
from safetensors.torch import save_file
from torch import Tensor

from quee.errors import QueeError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.checkpoints.layouts import LAYOUTS, recognise
from quee.network.checkpoints.reading import fit_state, read_checkpoint

State = dict[str, Tensor]
SIZE: dict[str, Any] = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}
VIT = "vit_tiny_patch16_224"
DINOV2 = "vit_small_patch14_dinov2"


def random(module: torch.nn.Module, seed: int = 0) -> State:
    """Random weights, without the special initial values of LayerNorm and position tables."""
    source = torch.Generator().manual_seed(seed)
    return {key: torch.randn(v.shape, generator=source) * 0.1 for key, v in module.state_dict().items()}


def images(backbone: SegmentedBackbone) -> Tensor:
    size = backbone.input.shape
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits_of(file: Path, name: str, **kwargs: Any) -> tuple[Tensor, Tensor, str]:
    """Images, the backbone's logits on them with the weights of a file, and the description of the file."""
    backbone = create_backbone(name, **kwargs)
    found = read_checkpoint(file)
    backbone.load_state_dict(fit_state(backbone, found.state, str(file)))
    x = images(backbone)
    return x, backbone(x), found.said


@torch.inference_mode()
def test_torchvisions_vit(tmp_path: Path) -> None:
    original = torchvision.models.VisionTransformer(32, 16, 2, 4, 32, 64, num_classes=5).eval()
    original.load_state_dict(random(original))
    torch.save(original.state_dict(), tmp_path / "w.pth")
    x, logits, said = logits_of(tmp_path / "w.pth", VIT, **SIZE)
    torch.testing.assert_close(logits, original(x), rtol=1e-4, atol=1e-5)
    assert said.startswith("torchvision ViT; torchvision's own weights want preprocessing={mean: [0.485, ")
    older = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    old = {re.sub(r"mlp\.[03]\.", lambda m: older[m[0]], key): v for key, v in original.state_dict().items()}
    torch.save(old, tmp_path / "old.pth")
    assert torch.equal(logits_of(tmp_path / "old.pth", VIT, **SIZE)[1], logits)


HF_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
HF_TOP = {
    "cls_token": "{}embeddings.cls_token",
    "pos_embed": "{}embeddings.position_embeddings",
    "patch_embed.proj.weight": "{}embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "{}embeddings.patch_embeddings.projection.bias",
    "norm.weight": "{}layernorm.weight",
    "norm.bias": "{}layernorm.bias",
}


def hugging_face(state: State, model: str, heads: dict[str, str]) -> State:
    """timm's weights under the names of Hugging Face's ViT."""
    names = {timms: theirs.format(model) for timms, theirs in HF_TOP.items()}
    names |= {f"{timms}.{kind}": f"{theirs}.{kind}" for timms, theirs in heads.items() for kind in ("weight", "bias")}
    found: State = {}
    for key, value in state.items():
        if key in names:
            found[names[key]] = value
            continue
        _, index, rest = key.split(".", 2)
        layer = f"{model}encoder.layer.{index}."
        if rest.startswith("attn.qkv"):
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{layer}attention.attention.{part}.{rest.rpartition('.')[2]}"] = third.contiguous()
        else:
            inner = next(timms for timms in HF_BLOCK if rest.startswith(timms))
            found[layer + HF_BLOCK[inner] + rest.removeprefix(inner)] = value
    return found


def test_what_no_classifier_reads_is_left_out_and_said(tmp_path: Path) -> None:
    state = random(create_backbone(VIT, **SIZE))
    theirs = hugging_face(state, "vit.", {"head": "classifier"}) | {"vit.pooler.dense.weight": torch.zeros(32, 32)}
    save_file(theirs, tmp_path / "model.safetensors")
    said = logits_of(tmp_path / "model.safetensors", VIT, **SIZE)[2]
    assert said.endswith("left out, of no classifier: vit.pooler.dense.weight")


def mmpretrain(state: State) -> State:
    """timm's weights under MMPretrain's names; the head is another network's."""
    rules = {
        "blocks.": "layers.",
        ".norm1.": ".ln1.",
        ".norm2.": ".ln2.",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
        "patch_embed.proj.": "patch_embed.projection.",
    }
    theirs: State = {}
    for key, value in state.items():
        for timms, name in rules.items():
            key = key.replace(timms, name)
        theirs[re.sub(r"^norm\.", "ln1.", key)] = value
    return {key: value for key, value in theirs.items() if not key.startswith("head.")}


@torch.inference_mode()
def test_mmpretrains_names(tmp_path: Path) -> None:
    original = create_backbone(VIT, **SIZE)
    state = random(original)
    original.load_state_dict(state)
    theirs = {f"backbone.{key}": value for key, value in mmpretrain(state).items()}
    torch.save({"state_dict": theirs, "meta": {"epoch": 3}}, tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth")
    assert found.said == "MMPretrain ViT; of 'state_dict'; without the prefix 'backbone.'"
    loaded = fit_state(original, found.state, "w.pth", new_head=True)
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if not key.startswith("head."))


def of_google(state: State, heads: int, stacked: bool) -> dict[str, np.ndarray]:
    """timm's weights in JAX's form, of ViT's authors or of big_vision (all blocks in one array)."""
    names = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_1" if stacked else "LayerNorm_2"}
    attention = f"MultiHeadDotProductAttention_{0 if stacked else 1}"
    mlp = f"MlpBlock_{0 if stacked else 3}"
    found: dict[str, np.ndarray] = {}
    for key, value in state.items():
        array, kind = value.numpy(), key.rpartition(".")[2]
        kernel = "kernel" if kind == "weight" else "bias"
        if key == "cls_token":
            found["cls"] = array
        elif key == "pos_embed":
            found["pos_embedding" if stacked else "Transformer/posembed_input/pos_embedding"] = array
        elif key.startswith("patch_embed"):
            found[f"embedding/{kernel}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        elif key.startswith("norm."):
            found[f"Transformer/encoder_norm/{'scale' if kind == 'weight' else 'bias'}"] = array
        elif key.startswith("head."):
            found[f"head/{kernel}"] = array.T
        else:
            _, index, layer, *rest = key.split(".")
            at = f"Transformer/encoderblock_{index}/"
            if layer.startswith("norm"):
                found[f"{at}{names[layer]}/{'scale' if kind == 'weight' else 'bias'}"] = array
            elif rest[0] == "qkv":
                for part, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                    shape = (-1, heads, len(third) // heads)
                    found[f"{at}{attention}/{part}/{kernel}"] = (
                        third.T.reshape(shape) if kind == "weight" else third.reshape(shape[1:])
                    )
            elif rest[0] == "proj":
                found[f"{at}{attention}/out/{kernel}"] = (
                    array.T.reshape(heads, -1, len(array)) if kind == "weight" else array
                )
            else:
                found[f"{at}{mlp}/Dense_{int(rest[0][2]) - 1}/{kernel}"] = array.T
    if not stacked:
        return found
    blocks = {key for key in found if "encoderblock_0/" in key}
    depth = len({key.split("/")[1] for key in found if "encoderblock_" in key})
    joined = {
        key.replace("block_0/", "block/"): np.stack([found[key.replace("_0/", f"_{i}/", 1)] for i in range(depth)])
        for key in blocks
    }
    return {key: value for key, value in found.items() if "encoderblock_" not in key} | joined


@pytest.mark.parametrize("stacked", [False, True], ids=["vit", "big_vision"])
@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_googles_arrays_become_what_timm_makes_of_them(stacked: bool, prefix: str, tmp_path: Path) -> None:
    if stacked and prefix:
        prefix = "params/"
    original = timm.create_model(VIT, **SIZE)
    arrays = of_google(random(original), 4, stacked)
    file = tmp_path / "Ti_16.npz"
    np.savez(file, **{prefix + key: value for key, value in arrays.items()})  # type: ignore[arg-type]
    original.load_pretrained(str(file))
    found = read_checkpoint(file)
    assert found.layout == "Google's ViT of JAX (.npz)"
    assert set(found.state) == set(original.state_dict())
    assert all(torch.equal(found.state[key], value) for key, value in original.state_dict().items())


def test_dinov2_in_chunks_of_blocks(tmp_path: Path) -> None:
    state = random(create_backbone(DINOV2, **{**SIZE, "img_size": 28, "init_values": 1e-5}))
    chunked = {re.sub(r"^blocks\.(\d)", r"blocks.0.\1", key): value for key, value in state.items()}
    theirs = {f"backbone.{key}": value for key, value in {**chunked, "mask_token": torch.zeros(1, 32)}.items()}
    torch.save({"teacher": theirs}, tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth")
    assert set(found.state) == set(state) | {"mask_token"}
    assert found.said == "DINOv2, the authors' names; of 'teacher'; without the prefix 'backbone.'"


def of_torchvision(state: State) -> State:
    """Weights of the shapes of a ViT under torchvision's names."""
    return random(torchvision.models.VisionTransformer(32, 16, 2, 4, 32, 64, num_classes=5))


def of_akamaster(state: State) -> State:
    """A ResNet's weights as akamaster publishes them: without the counters of BatchNorm, the classifier as `linear`."""
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {key.replace("head.", "linear."): value for key, value in kept.items()}


def convnexts_authors(state: State) -> State:
    """timm's weights under the names of ConvNeXt's authors."""
    rules = {
        r"^stem\.": "downsample_layers.0.",
        r"^stages\.(\d)\.downsample\.": r"downsample_layers.\1.",
        r"\.blocks\.": ".",
        r"\.conv_dw\.": ".dwconv.",
        r"\.mlp\.fc": ".pwconv",
        r"^head\.norm\.": "norm.",
        r"^head\.fc\.": "head.",
    }
    theirs = {}
    for key, value in state.items():
        name = key
        for pattern, new in rules.items():
            name = re.sub(pattern, new, name)
        theirs[name] = value
    return theirs


SMALL_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "conv_mlp": False, "num_classes": 5}
SMALL_DINOV2 = {**SIZE, "img_size": 28, "init_values": 1e-5}
EXAMPLES: dict[str, tuple[str, dict[str, Any], Callable[[State], State]]] = {
    "timm ViT": (VIT, SIZE, lambda state: state),
    "DeiT III, the authors' names": (
        "deit3_small_patch16_224",
        SIZE,
        lambda state: {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): value for key, value in state.items()},
    ),
    "ViT of MAE pre-training, timm's names": (
        VIT,
        SIZE,
        lambda state: {**state, "mask_token": torch.zeros(1), "decoder_blocks.0.norm1.weight": torch.zeros(1)},
    ),
    "DINOv2, the authors' names": (DINOV2, SMALL_DINOV2, lambda state: {**state, "mask_token": torch.zeros(1, 32)}),
    "T2T-ViT, the authors' names": ("t2t_vit_7", {"depth": 1, "img_size": 32, "num_classes": 5}, lambda state: state),
    "torchvision ViT": (VIT, SIZE, of_torchvision),
    "MMPretrain ViT": (VIT, SIZE, mmpretrain),
    "Google's ViT of JAX (.npz)": (
        VIT,
        SIZE,
        lambda state: {key: torch.from_numpy(value.copy()) for key, value in of_google(state, 4, False).items()},
    ),
    "ResNet for CIFAR": ("resnet20_cifar", {"shortcut": "B"}, of_akamaster),
    "DINOv3, the authors' names": (
        "vit_small_patch16_dinov3",
        {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5},
        lambda state: {
            "rope_embed.periods": torch.ones(2),
            **{
                re.sub(r"gamma_([12])$", r"ls\1.gamma", k).replace("reg_token", "storage_tokens"): v
                for k, v in state.items()
            },
        },
    ),
    "EVA, timm's names": (
        "eva02_base_patch14_224",
        {"img_size": 28, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5},
        lambda state: state,
    ),
    "Swin Transformer V2, timm's or the authors' names": (
        "swinv2_tiny_window8_256",
        {"img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "num_classes": 5},
        lambda state: {**state, "layers.0.blocks.0.attn.relative_position_index": torch.zeros(2)},
    ),
    "timm's ViT with relative positions": (
        "vit_relpos_small_patch16_224",
        {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5},
        lambda state: state,
    ),
    "ConvNeXt, the authors' names": ("convnext_atto", SMALL_CONVNEXT, convnexts_authors),
    "timm's EfficientNet or MobileNet": ("mobilenetv3_small_050", {"num_classes": 5}, lambda state: state),
}
"""By layout: a backbone, its keywords, and a function that turns its weights into a file of the layout."""


@pytest.mark.parametrize("layout", [layout.name for layout in LAYOUTS if layout.convert])
def test_every_layout_that_is_read_has_an_original_or_fits_its_backbone(layout: str) -> None:
    if layout == HEADLESS or any(case.layout == layout for case in ORIGINALS.values()):
        return  # test_originals.py
    name, kwargs, theirs = EXAMPLES[layout]
    backbone = create_backbone(name, **kwargs)
    found = recognise(theirs(random(backbone)), "w.pth")
    assert found.layout == layout
    backbone.load_state_dict(
        fit_state(backbone, found.state, "w.pth", new_head=f"{backbone.logits_layer}.weight" not in found.state)
    )


STATES = {
    name: EXAMPLES[name][2](random(create_backbone(EXAMPLES[name][0], **EXAMPLES[name][1])))
    for name in ("timm ViT", "T2T-ViT, the authors' names", "torchvision ViT")
}
STATES["Hugging Face ViT or DeiT"] = hugging_face(STATES["timm ViT"], "vit.", {"head": "classifier"})


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(STATES)),
    prefix=st.lists(st.sampled_from(["module", "model", "net", "vision", "student_0", "trunk"]), max_size=3),
    around=st.sampled_from([{}, {"criterion.weight": torch.ones(3)}, {"queue": torch.ones(2)}]),
)
def test_whatever_modules_wrap_it_the_same_network_is_found(name: str, prefix: list[str], around: State) -> None:
    start = "".join(f"{part}." for part in prefix)
    wrapped = {start + key: value for key, value in STATES[name].items()}
    plain = recognise(STATES[name], "w.pth")
    found = recognise(wrapped | (around if prefix else {}), "w.pth")
    assert (found.layout, found.prefix) == (name, start)
    assert found.left_out == (tuple(around) if prefix else ())
    assert set(found.state) == set(plain.state)
    assert all(torch.equal(found.state[key], value) for key, value in plain.state.items())


def test_modules_that_compilation_and_sharding_put_inside_are_removed() -> None:
    inner = {
        key.replace("blocks.0.", "blocks._orig_mod.0._fsdp_wrapped_module."): v for key, v in STATES["timm ViT"].items()
    }
    wrapped = {f"module._orig_mod.model.{key}": value for key, value in inner.items()}
    assert set(recognise(wrapped, "w.pth").state) == set(STATES["timm ViT"])


def test_of_two_networks_none_is_guessed() -> None:
    both = {f"{who}.{key}": value for who in ("student", "teacher") for key, value in STATES["timm ViT"].items()}
    with pytest.raises(QueeError, match=r"several networks \(timm ViT\): student., teacher.; save one of them alone"):
        recognise(both, "w.pth")


def test_of_a_network_and_its_average_the_average_is_taken() -> None:
    state = STATES["timm ViT"]
    both = {**{f"model.{key}": value for key, value in state.items()}, "ema_model.n_averaged": torch.ones(1)}
    found = recognise({**both, **{f"ema_model.module.{key}": value + 1 for key, value in state.items()}}, "w.pth")
    assert found.prefix == "ema_model.module."
    assert all(torch.equal(found.state[key], value + 1) for key, value in state.items())
    assert "model.head.weight" in found.left_out


@pytest.mark.parametrize("head", ["head.weight", "fc.weight", "classifier.bias", "cls_head.fc.weight"])
def test_a_head_outside_of_the_network_is_not_guessed(head: str) -> None:
    state = {f"backbone.{key}": value for key, value in STATES["timm ViT"].items() if not key.startswith("head")}
    with pytest.raises(QueeError, match=rf"timm ViT under 'backbone.' with {head} outside of it"):
        recognise(state | {head: torch.zeros(5)}, "w.pth")


FOREIGN = {
    "data2vec": ["data2vec_vision.embeddings.cls_token"],
    "quantized network": ["vit.encoder.layer.0.attention.attention.query.qweight"],
    "torchvision convolutional network": ["features.0.weight", "classifier.6.weight"],
    "OpenAI or OpenCLIP CLIP": ["visual.class_embedding", "transformer.resblocks.0.ln_1.weight"],
    "Hugging Face CLIP or SigLIP": ["vision_model.encoder.layers.0.layer_norm1.weight"],
    "LoRA adapter": ["base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight"],
    "text transformer": ["bert.embeddings.word_embeddings.weight"],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_networks_are_named_with_what_to_do(kind: str) -> None:
    with pytest.raises(QueeError) as raised:
        recognise({key: torch.zeros(2) for key in FOREIGN[kind]}, "w.pth")
    message = str(raised.value)
    assert message.startswith(f"w.pth is a {kind} (")
    assert next(layout.advice for layout in LAYOUTS if layout.name == kind) in message
    assert "\n" not in message


def test_every_layout_is_read_or_says_what_to_do() -> None:
    for layout in LAYOUTS:
        assert bool(layout.convert) != bool(layout.advice), layout.name
        re.compile(layout.anchor), re.compile(layout.also), re.compile(layout.unused)


NAMED = {
    "vit_b_16": ("vit_base_patch16_224", {}),
    "vit_b_32": ("vit_base_patch32_224", {}),
    "vit_l_16": ("vit_large_patch16_224", {}),
    "vit_h_14": ("vit_huge_patch14_224", {}),
    "resnet18": ("resnet18", {}),
    "resnet34": ("resnet34", {}),
    "resnet50": ("resnet50", {}),
    "resnet101": ("resnet101", {}),
    "resnet152": ("resnet152", {}),
    "resnext50_32x4d": ("resnext50_32x4d", {}),
    "resnext101_32x8d": ("resnext101_32x8d", {}),
    "resnext101_64x4d": ("resnext101_64x4d", {}),
    "wide_resnet50_2": ("wide_resnet50_2", {}),
    "wide_resnet101_2": ("wide_resnet101_2", {}),
    "convnext_tiny": ("convnext_tiny", {}),
    "convnext_small": ("convnext_small", {}),
    "convnext_base": ("convnext_base", {}),
    "convnext_large": ("convnext_large", {}),
    "swin_t": ("swin_tiny_patch4_window7_224", {}),
    "swin_s": ("swin_small_patch4_window7_224", {}),
    "swin_b": ("swin_base_patch4_window7_224", {}),
    **{f"efficientnet_b{number}": (f"efficientnet_b{number}", {}) for number in range(5)},
    **{f"efficientnet_b{number}": (f"efficientnet_b{number}", {"bn_eps": 1e-3}) for number in (5, 6, 7)},
    **{f"efficientnet_v2_{size}": (f"efficientnetv2_{size}", {"bn_eps": 1e-3}) for size in "sml"},
    **{f"mobilenet_v3_{size}": (f"mobilenetv3_{size}_100", {"bn_eps": 1e-3}) for size in ("small", "large")},
}
"""torchvision's networks with timm's names and what they do not say."""


@pytest.mark.parametrize("name", NAMED)
def test_torchvisions_networks_are_known_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        found = recognise(dict(getattr(torchvision.models, name)().state_dict()), "w.pth")
        assert found.found is not None and found.found.named is not None
        named = found.found.named(found.state)
        assert named is not None and (named.name, named.kwargs) == NAMED[name]
        own = timm.create_model(named.name, num_classes=1000, **named.kwargs).state_dict()
    assert {key: value.shape for key, value in found.state.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "vit_small_patch32_384", "vit_base_patch8_224", "deit_small_distilled_patch16_224"),
        *("convnextv2_atto", "convnext_nano", "resnet26", "swin_base_patch4_window12_384", "beit_large_patch16_384"),
        "vit_base_patch16_siglip_384",
    ],
)
def test_timms_networks_are_known_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        found = recognise(dict(timm.create_model(name, in_chans=1).state_dict()), "w.pth")
    assert found.found is not None and found.found.named is not None
    named = found.found.named(found.state)
    assert named is not None
    assert (named.name, named.kwargs) == (name, {"in_chans": 1})
