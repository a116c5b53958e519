"""Weights on disk: their metadata, and the refusal of held-out data from the set they were fitted on."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from quee.cli.keywords import settings_of
from quee.data.weights import (
    head_classes,
    import_weights,
    load_weights,
    record,
    refuse_other_kwargs,
    refuse_overlap,
    set_options,
)
from quee.data.weights_facts import PUBLISHED, WeightsFacts, built_with, how_to_add_weights, seen_keys, weights_facts
from quee.errors import IntegrityError, QueeError, UsageError
from quee.network.architectures import create_backbone
from quee.settings.backbone import Backbone
from quee.settings.experiment import BLOCKS, Experiment
from quee.work.io import read_tensors

DINOV2 = "vit_small_patch14_dinov2.lvd142m"


def saved(path: Path, name: str = "vit_digits", **kwargs: Any) -> Path:
    torch.manual_seed(0)
    torch.save(create_backbone(name, **kwargs).state_dict(), path)
    return path


def experiment(mode: str, evaluation_set: str, dataset: str = "cifar10") -> Experiment:
    content: dict[str, Any] = {block: {} for block in BLOCKS}
    content["prepare"] = {"dataset": dataset, "splits": {"evaluation_set": evaluation_set}}
    content["backbone"] = {"name": "t2t_vit_7", "mode": mode, "weights": "mine"}
    return Experiment(name="some", **content)


NEVER, ALSO, UNKNOWN = (WeightsFacts("t2t_vit_7", seen) for seen in ((), ("cifar10", "imagenet"), None))


@pytest.mark.parametrize("evaluation_set", ["pooled", "test"])
@pytest.mark.parametrize(
    ("mode", "facts", "reason"),
    [
        ("pretrained", ALSO, "'mine' have seen the official training set of cifar10"),
        ("finetune", ALSO, "'mine' have seen the official training set of cifar10"),
        ("linear_probe", ALSO, "'mine' have seen the official training set of cifar10"),
        ("pretrained", UNKNOWN, "'mine' do not say what they were trained on"),
    ],
)
def test_held_out_splits_that_weights_may_have_seen_are_refused(
    mode: str, facts: WeightsFacts, reason: str, evaluation_set: str
) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        refuse_overlap(experiment(mode, evaluation_set), facts)
    assert f"evaluation_set must be 'held_out'; got '{evaluation_set}'" in str(raised.value)
    refuse_overlap(experiment(mode, "held_out"), facts)


@pytest.mark.parametrize(("mode", "facts"), [("pretrained", NEVER), ("finetune", NEVER), ("finetune", UNKNOWN)])
def test_what_weights_have_not_seen_may_be_held_out(mode: str, facts: WeightsFacts) -> None:
    refuse_overlap(experiment(mode, "pooled"), facts)
    refuse_overlap(experiment("pretrained", "pooled", "svhn"), ALSO)


def test_a_file_says_what_it_is_for(project: Path) -> None:
    import_weights("vit_digits", saved(project / "w.pth", num_classes=7), project / "a.safetensors", None, ("mnist",))
    assert weights_facts(project / "a.safetensors") == WeightsFacts("vit_digits", ("mnist",))
    assert head_classes(project / "a.safetensors") == 7
    import_weights("vit_digits", project / "w.pth", project / "b.safetensors")
    assert weights_facts(project / "b.safetensors").trained_on is None
    import_weights("vit_digits", project / "w.pth", project / "c.safetensors", trained_on=())
    assert weights_facts(project / "c.safetensors").trained_on == ()
    with pytest.raises(UsageError, match="is for backbone 'vit_digits'; backbone.name is 'vit_fashion_mnist'"):
        load_weights(create_backbone("vit_fashion_mnist"), project / "a.safetensors", new_head=True)
    with pytest.raises(QueeError, match=r"head.weight \(7, 64\) instead of \(10, 64\)"):
        load_weights(create_backbone("vit_digits"), project / "a.safetensors", new_head=False)


def test_weights_in_half_precision_stay_so_and_run_as_the_same_numbers(project: Path) -> None:
    state = create_backbone("vit_digits").state_dict()
    torch.save({key: value.half() for key, value in state.items()}, project / "w.pth")
    import_weights("vit_digits", project / "w.pth", project / "a.safetensors")
    assert {value.dtype.name for value in read_tensors(project / "a.safetensors").values()} == {"float16"}
    again = create_backbone("vit_digits")
    load_weights(again, project / "a.safetensors", new_head=False)
    for key, value in again.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[key].half().float())


def test_keys_of_samples_are_kept_and_are_no_weights(project: Path) -> None:
    keys = {"mnist": np.array([7, 3, 3, 2**63], np.uint64)}
    path = project / "a.safetensors"
    import_weights("vit_digits", saved(project / "w.pth"), path, None, ("mnist",), None, keys)
    record(path, {"mean": [0.3]}, None, "on digits")
    facts = weights_facts(path)
    assert facts.seen == {"mnist": 4} and facts.trained_on == ("mnist",)
    assert seen_keys(path, facts)["mnist"].tolist() == [3, 7, 2**63]
    load_weights(create_backbone("vit_digits"), path, new_head=False)


def test_another_file_is_refused_and_a_missing_one_named(project: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, project / "plain.safetensors")
    (project / "text.safetensors").write_text("nothing of the kind")
    for name in ("plain", "text"):
        with pytest.raises(IntegrityError, match=f"quee weights add {name} FILE --replace"):
            weights_facts(project / f"{name}.safetensors")
    with pytest.raises(IntegrityError, match=r"missing file: .*t2t_vit_7.*get 71.7_T2T_ViT_7.pth.tar from"):
        weights_facts(project / "t2t_vit_7.safetensors")


def test_dinov2_is_joined_with_its_published_head_or_kept_without(project: Path) -> None:
    state = {**timm.create_model(DINOV2).state_dict(), "mask_token": torch.zeros(1, 384)}
    torch.save(state, project / "pretrain.pth")
    torch.save({"weight": torch.randn(12, 768), "bias": torch.zeros(12)}, project / "head.pth")
    joined, bare = project / "joined.safetensors", project / "bare.safetensors"
    import_weights(DINOV2, project / "pretrain.pth", joined, project / "head.pth", ("imagenet",))
    assert head_classes(joined) == 12
    backbone = create_backbone(DINOV2, num_classes=12, img_size=28)
    load_weights(backbone, joined, new_head=False)
    assert torch.equal(backbone.state_dict()["blocks.3.attn.qkv.weight"], state["blocks.3.attn.qkv.weight"])
    import_weights(DINOV2, project / "pretrain.pth", bare)
    assert head_classes(bare) is None
    load_weights(create_backbone(DINOV2, num_classes=5, img_size=28), bare, new_head=True)
    with pytest.raises(UsageError, match="a head of its own is for DINOv2's backbones"):
        import_weights("vit_digits", saved(project / "w.pth"), bare, project / "head.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_named_with_files_source_and_command(name: str, project: Path) -> None:
    said = how_to_add_weights(name)
    assert said.startswith(f"get {PUBLISHED[name].file}")
    assert f"`quee weights add {name} {PUBLISHED[name].file}" in said
    assert "github.com/" in said


VIT = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
BUILT: dict[str, dict[str, Any]] = {
    "average pooling": {"global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "norms of query and key": {"qk_norm": True},
    "other patches": {"img_size": 64, "patch_size": 8},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "layer scale": {"init_values": 1e-5},
    "no biases": {"qkv_bias": False},
    "norm before the blocks": {"pre_norm": True},
    "several": {"in_chans": 1, "reg_tokens": 1, "qk_norm": True, "init_values": 0.1},
}


@pytest.mark.parametrize("what", BUILT)
def test_weights_of_a_network_built_with_keywords_are_taken_with_them(what: str, tmp_path: Path) -> None:
    kwargs = {**SMALL, **BUILT[what]}
    original = timm.create_model(VIT, num_classes=2, **kwargs)
    torch.save(original.state_dict(), tmp_path / "w.pth")
    target = tmp_path / "mine.safetensors"
    with pytest.raises(QueeError, match="does not fit|cannot be built") as raised:
        import_weights(VIT, tmp_path / "w.pth", target, kwargs=SMALL)
    assert not target.exists()
    hint = re.search(r"its shapes ask for(( --set \S+)+)$", str(raised.value))
    assert hint, str(raised.value)
    asked = settings_of([word for word in shlex.split(hint[1]) if word != "--set"])
    import_weights(VIT, tmp_path / "w.pth", target, kwargs={**SMALL, **asked})  # the advice of the message works
    import_weights(VIT, tmp_path / "w.pth", target, kwargs=kwargs)
    facts = weights_facts(target)
    assert facts.kwargs == kwargs
    assert head_classes(target) == 2
    assert facts.read_as == "timm ViT"
    backbone = create_backbone(VIT, num_classes=2, **kwargs)
    load_weights(backbone, target, new_head=False)
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "name", "kwargs"),
    [
        ("convnext_tiny", "convnext_atto", {"in_chans": 1}),
        ("resnet50", "resnet18", {}),
        ("vit_small_patch16_224", VIT, {}),
    ],
)
def test_weights_of_another_network_are_told_which(
    wrong: str, name: str, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(timm.create_model(name, num_classes=2, **kwargs).state_dict(), tmp_path / "w.pth")
    with pytest.raises(QueeError, match=r"does not fit .*; its shapes are those of --backbone ") as raised:
        import_weights(wrong, tmp_path / "w.pth", tmp_path / "mine.safetensors")
    backbone, *options = shlex.split(str(raised.value).rpartition("--backbone ")[2])
    told = settings_of([word for word in options if word != "--set"])
    import_weights(backbone, tmp_path / "w.pth", tmp_path / "mine.safetensors", kwargs=told)  # the advice works
    loaded = create_backbone(backbone, num_classes=2, **(weights_facts(tmp_path / "mine.safetensors").kwargs or {}))
    load_weights(loaded, tmp_path / "mine.safetensors", new_head=False)


def test_weights_for_a_rectangle_are_taken_at_their_size_alone(tmp_path: Path) -> None:
    torch.save(timm.create_model(VIT, num_classes=2, img_size=(32, 96), **SMALL).state_dict(), tmp_path / "w.pth")
    with pytest.raises(QueeError, match=r"w.pth .*at their own img_size=\[height,width\] alone"):
        import_weights(VIT, tmp_path / "w.pth", tmp_path / "o", kwargs=SMALL)
    import_weights(VIT, tmp_path / "w.pth", tmp_path / "o", kwargs={**SMALL, "img_size": [32, 96]})


def test_headless_weights_of_headless_names_are_taken(tmp_path: Path) -> None:
    for kwargs in ({"num_classes": 0}, {"num_classes": 3}):
        torch.save(timm.create_model("vit_base_patch16_224", **kwargs, **SMALL).state_dict(), tmp_path / "w.pth")
        import_weights("vit_base_patch16_224.mae", tmp_path / "w.pth", tmp_path / "o", kwargs=SMALL)
        assert head_classes(tmp_path / "o") == (kwargs["num_classes"] or None)


def told(added: dict[str, Any] | None, **given: Any) -> None:
    settings = Backbone(name=VIT, mode="pretrained", weights="mine", kwargs=given)
    refuse_other_kwargs(settings, WeightsFacts(VIT, (), added))


@pytest.mark.parametrize(
    ("added", "given"),
    [
        ({}, {}),
        (None, {"global_pool": "avg"}),
        ({}, {"num_classes": 5, "img_size": 64, "preprocessing": {"crop_pct": 1.0}, "drop_path_rate": 0.1}),
        ({"img_size": [32, 96], "in_chans": 1}, {"in_chans": 1}),
        ({"patch_size": [8, 8]}, {"patch_size": (8, 8)}),
        ({"in_chans": 1}, {}),
    ],
)
def test_an_experiment_of_the_same_network_takes_the_weights(
    added: dict[str, Any] | None, given: dict[str, Any]
) -> None:
    told(added, **given)


@pytest.mark.parametrize(
    ("added", "given", "said"),
    [
        (
            {"in_chans": 1},
            {"in_chans": 3},
            "for in_chans=1, the experiment gives in_chans=3; give the same or none, or ",
        ),
        (
            {},
            {"act_layer": "relu"},
            "added for no kwargs, the experiment gives act_layer=relu; .*--set act_layer=relu --replace",
        ),
        ({"global_pool": "avg"}, {"global_pool": "max"}, "global_pool=avg, the experiment gives global_pool=max"),
    ],
)
def test_an_experiment_of_another_network_is_told(added: dict[str, Any], given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        told(added, **given)


def test_weights_of_float16_are_kept_in_half_the_bytes_and_read_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = create_backbone("vit_digits").state_dict()
    torch.save({key: value.half() for key, value in whole.items()}, tmp_path / "half.pth")
    torch.save({key: value.half().float() for key, value in whole.items()}, tmp_path / "whole.pth")
    loaded = []
    for name in ("half", "whole"):
        import_weights("vit_digits", tmp_path / f"{name}.pth", tmp_path / f"{name}.safetensors")
        backbone = create_backbone("vit_digits")
        load_weights(backbone, tmp_path / f"{name}.safetensors", new_head=False)
        loaded.append(backbone.state_dict())
    half, full = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole"))
    assert half < 0.55 * full
    for key, value in loaded[0].items():
        assert value.dtype == torch.float32 and torch.equal(value, loaded[1][key]), key


def test_weights_are_rounded_to_half_precision_where_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = create_backbone("vit_digits").state_dict()
    torch.save(whole, tmp_path / "w.pth")
    import_weights("vit_digits", tmp_path / "w.pth", tmp_path / "half.safetensors", half=True)
    backbone = create_backbone("vit_digits")
    load_weights(backbone, tmp_path / "half.safetensors", new_head=False)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, whole[name].half().float() if value.is_floating_point() else whole[name]), name
    torch.save({**whole, "head.bias": whole["head.bias"] + 70_000}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"w.pth.*: head.bias has values beyond ±65,504, .* leave out --half"):
        import_weights("vit_digits", tmp_path / "w.pth", tmp_path / "other.safetensors", half=True)
    assert not (tmp_path / "other.safetensors").exists()


def test_stated_preprocessing_has_as_many_channels_as_the_weights(tmp_path: Path) -> None:
    source = saved(tmp_path / "w.pth", VIT, **SMALL, in_chans=1, num_classes=3)
    grey = {"mean": [0.5], "std": [0.28]}
    import_weights(VIT, source, tmp_path / "o.safetensors", kwargs={**SMALL, "preprocessing": grey})
    assert weights_facts(tmp_path / "o.safetensors").kwargs == {**SMALL, "in_chans": 1, "preprocessing": grey}
    with pytest.raises(UsageError, match=r"preprocessing.mean must be 1 numbers; got \[0.5, 0.5\]"):
        import_weights(VIT, source, tmp_path / "o", kwargs={**SMALL, "preprocessing": {"mean": [0.5, 0.5]}})


def test_options_are_read_as_they_are_written() -> None:
    kwargs = {"a": 1e-5, "b": [32, 96], "c": "avg", "d": False, "e": None, "f": {"x": 1}, "g": "two words", "h": "null"}
    assert settings_of([word for word in shlex.split(set_options(kwargs)) if word != "--set"]) == kwargs


@pytest.mark.parametrize("pair", ["in_chans", "=1", "in-chans=1", "x=[1", "x=2024-01-01", "x=.nan"])
def test_options_that_are_none_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        settings_of([pair])
    with pytest.raises(UsageError, match="given twice"):
        settings_of(["x=1", "x=2"])


def test_weights_of_a_layout_nobody_knows_are_told_which_are(tmp_path: Path) -> None:
    torch.save({"first.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(QueeError, match=r"of no layout that is read: T2T-ViT, the authors' names; Hugging Face"):
        import_weights(VIT, tmp_path / "w.pth", tmp_path / "o", kwargs=SMALL)


def test_quantized_weights_are_refused_by_name(tmp_path: Path) -> None:
    state = timm.create_model(VIT, num_classes=2, **SMALL).state_dict()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].to(torch.int8)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(QueeError, match=r"blocks.0.attn.qkv.weight is of int8: weights that are quantized"):
        import_weights(VIT, tmp_path / "w.pth", tmp_path / "o", kwargs=SMALL)


def test_shapes_decide_channels_classes_and_image_size(tmp_path: Path) -> None:
    kwargs = {"img_size": 64, "in_chans": 1, **SMALL}
    torch.save(timm.create_model(VIT, num_classes=7, **kwargs).state_dict(), tmp_path / "w.pth")
    import_weights(VIT, tmp_path / "w.pth", tmp_path / "o", kwargs=SMALL)
    assert weights_facts(tmp_path / "o").kwargs == kwargs
    assert head_classes(tmp_path / "o") == 7
    import_weights(VIT, tmp_path / "w.pth", tmp_path / "o", kwargs={"img_size": 32, **SMALL})
    assert weights_facts(tmp_path / "o").kwargs == {**kwargs, "img_size": 32}


def test_an_experiment_is_built_with_what_its_weights_say(project: Path) -> None:
    settings = Backbone(name=VIT, mode="pretrained", weights="mine", kwargs={"preprocessing": {"crop_pct": 1.0}})
    assert built_with(settings) == settings.kwargs
    torch.save(timm.create_model(VIT, num_classes=2, in_chans=1, **SMALL).state_dict(), project / "w.pth")
    told = {**SMALL, "preprocessing": {"interpolation": "bilinear", "crop_pct": 0.5}, "norm_eps": 1e-12}
    import_weights(VIT, project / "w.pth", project / "data/weights/mine.safetensors", kwargs=told)
    preprocessing = {"interpolation": "bilinear", "crop_pct": 1.0}
    assert built_with(settings) == {**told, "in_chans": 1, "preprocessing": preprocessing}
    backbone = create_backbone(VIT, num_classes=2, **built_with(settings))
    assert (backbone.input.channels, backbone.input.crop_pct, backbone.input.interpolation) == (1, 1.0, "bilinear")
    assert backbone.get_submodule("norm").eps == 1e-12


def test_a_file_that_tells_its_backbone_needs_no_name_of_one(tmp_path: Path) -> None:
    torch.save({"model": timm.create_model("vit_tiny_patch16_384", num_classes=2).state_dict()}, tmp_path / "w.pth")
    import_weights(None, tmp_path / "w.pth", tmp_path / "mine.safetensors")
    assert weights_facts(tmp_path / "mine.safetensors").backbone == "vit_tiny_patch16_384"
    torch.save(timm.create_model(VIT, num_classes=2, **SMALL).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"w\.pth does not tell its backbone: give --backbone NAME, a name of timm's"):
        import_weights(None, tmp_path / "w.pth", tmp_path / "mine.safetensors")
