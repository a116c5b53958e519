"""Weights on disk: what they say of themselves, and when held-out data may not come from where they were fitted."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from quee.backbones import create_backbone
from quee.data.weights import (
    PUBLISHED,
    WeightsFacts,
    head_classes,
    how_to_add_weights,
    import_weights,
    load_weights,
    refuse_overlap,
    weights_facts,
)
from quee.errors import IntegrityError, QueeError, UsageError
from quee.experiment import BLOCKS, Experiment

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
def test_published_weights_are_named_with_files_source_and_command(name: str) -> None:
    said = how_to_add_weights(name)
    assert said.startswith(f"get {PUBLISHED[name].file}")
    assert f"`quee weights add {name} {PUBLISHED[name].file}" in said
    assert "github.com/" in said
