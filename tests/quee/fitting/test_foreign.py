"""Modules of other libraries: the backbone that they become has their logits, or they are refused with the reason."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from plain_heads import plain_heads as plain_heads
from torch import nn
from torchvision.models import swin_transformer
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)
from unstated_images import Patterns, size

import quee
from quee.data.transforms import to_unit
from quee.errors import UsageError
from quee.fitting.foreign import as_backbone, refuse_other_answers
from quee.network.architectures import create_backbone


def vit(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", **{"num_classes": 3, "img_size": 32, "depth": 2, **kwargs}
    )
    return model


def resnet() -> nn.Module:
    """A network with BatchNorm, in another's names: its state dict is the backbone's with `linear` for `head`."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = create_backbone("resnet20_cifar", num_classes=3)
            self.train()(torch.randn(8, 3, 32, 32))  # statistics of its own

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            found = self.inner.state_dict()
            return {key.replace("head.", "linear."): value for key, value in found.items()}

    return Named()


HIDDEN = {"hidden_size": 64, "intermediate_size": 128, "num_labels": 3}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm's ViT": vit,
    "for grey images": lambda: vit(in_chans=1),
    "with another number of heads": lambda: vit(num_heads=6),
    "with average pooling": lambda: vit(global_pool="avg"),
    "DeiT with a distillation token": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, depth=2
    ),
    "by the name of its weights": lambda: timm.create_model("deit_tiny_patch16_224.fb_in1k", num_classes=3, depth=1),
    "in training mode": lambda: vit(drop_rate=0.5).train(),
    "in half precision": lambda: vit().half(),
    "in DataParallel": lambda: nn.DataParallel(vit()),
    "a ResNet for CIFAR with BatchNorm, in training mode": lambda: resnet().train(),
    "torchvision's ResNet": lambda: torchvision.models.resnet18(num_classes=3),
    "torchvision's MobileNetV3": lambda: torchvision.models.mobilenet_v3_small(num_classes=3),
    "torchvision's Swin V2": lambda: torchvision.models.SwinTransformer(
        [4, 4],
        16,
        [2, 2],
        [2, 4],
        [4, 4],
        num_classes=3,
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    ),
    "transformers' ViT": lambda: ViTForImageClassification(
        ViTConfig(**HIDDEN, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
    ),
    "transformers' ConvNeXt": lambda: ConvNextForImageClassification(
        ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 64, 128], num_labels=3)
    ),
}


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.filterwarnings("ignore:the model does not say")
def test_a_module_becomes_a_backbone_with_its_logits_and_is_left_as_it_is(which: str) -> None:
    model = MODELS[which]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    training, kind = model.training, next(model.parameters()).dtype
    backbone, copy = as_backbone(model)
    images = torch.randn(4, backbone.input.channels, *backbone.input.size)
    assert copy is not None
    refuse_other_answers(backbone, copy, images)
    with torch.inference_mode():
        theirs = copy(images)
        torch.testing.assert_close(backbone(images), getattr(theirs, "logits", theirs), atol=1e-4, rtol=0)
    assert model.training == training and next(model.parameters()).dtype == kind
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert backbone.made_with is not None
    again = create_backbone(backbone.name, **backbone.made_with)
    again.load_state_dict(backbone.state_dict())
    assert again.input == backbone.input


def changed() -> nn.Module:
    model = vit()
    with torch.no_grad():
        next(model.parameters())[0] = float("inf")
    return model


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: "resnet50", "the model is a str; give a torch module"),
    "of no layout": (lambda: nn.Sequential(nn.Linear(3, 3)), "of no layout that is read"),
    "without a head": (lambda: vit(num_classes=0), "no classification head"),
    "without weights": (lambda: vit().to("meta"), "cannot be copied to the CPU"),
    "with weights that are not finite": (changed, "values that are not finite"),
    "a part of its own": (lambda: vit(class_token=False, global_pool="map"), "cannot be built|does not fit|not run"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_other_modules_are_refused_in_a_line(which: str) -> None:
    make, reason = REFUSED[which]
    with pytest.raises(UsageError, match=reason) as refused:
        as_backbone(make())
    assert "\n" not in str(refused.value)


def test_another_function_of_the_same_weights_is_refused() -> None:
    backbone, copy = as_backbone(vit(act_layer=nn.ReLU))
    assert copy is not None
    with pytest.raises(UsageError, match=r"gives other logits \(by up to .*activation"):
        refuse_other_answers(backbone, copy, torch.randn(2, 3, 32, 32))


def test_a_backbone_stays_what_it_is() -> None:
    backbone = create_backbone("vit_digits", embed_dim=16, depth=2, num_heads=2)
    assert as_backbone(backbone) == (backbone, None)
    with pytest.raises(UsageError, match="preprocessing goes with other libraries' modules"):
        as_backbone(backbone, {"mean": [0.5]})


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
STATED = {
    "a mapping": {**HALF, "crop_pct": 0.8, "interpolation": "bilinear"},
    "timm's data configuration": {**HALF, "crop_pct": 0.8, "interpolation": "bilinear", "input_size": (3, 32, 32)},
    "torchvision's transforms": ImageClassification(
        crop_size=32, resize_size=40, **HALF, interpolation=InterpolationMode.BILINEAR
    ),
    "an image processor": ViTImageProcessorPil(
        image_mean=HALF["mean"], image_std=HALF["std"], resample=2, size={"height": 40, "width": 40}, do_center_crop=True,
        crop_size={"height": 32, "width": 32},
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", STATED)
def test_preprocessing_is_read_from_what_libraries_have(which: str) -> None:
    backbone, _ = as_backbone(vit(), STATED[which])
    given = backbone.input
    assert (given.mean, given.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (given.crop_pct, given.interpolation) == (0.8, "bilinear")


@pytest.mark.parametrize("which", ["timm's data configuration", "torchvision's transforms", "a mapping with img_size"])
def test_the_size_of_images_is_taken_where_the_module_does_not_say_it(which: str) -> None:
    given = STATED.get(which, {"img_size": 32})
    backbone, _ = as_backbone(torchvision.models.resnet18(num_classes=3), given)
    assert backbone.input.size == (32, 32) and backbone.made_with is not None and backbone.made_with["img_size"] == 32


def test_a_module_trained_on_smaller_images_than_usual_is_refused_with_the_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, patterns = timm.create_model("test_resnet", num_classes=6), Patterns(size, 240, seed=1)
    transform = create_backbone("test_resnet", num_classes=6, img_size=32).input
    x = transform.normalise(to_unit(patterns.pixels(0, 240, transform)))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        rows = torch.arange(240)[step % 4 :: 4]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), torch.from_numpy(patterns.labels)[rows]).backward()
        optimizer.step()
    images = np.stack([np.asarray(image) for image in patterns.images])
    with pytest.raises(
        UsageError, match=r"with images of 160×160 pixels, and \d+ % at 32×32; give preprocessing=.'img_size'"
    ):
        quee.fit(model, images, patterns.labels, tmp_path / "bundle", ["w8a8"])
    assert list(tmp_path.iterdir()) == []


def test_the_modules_own_preprocessing_is_taken_and_a_missing_one_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone, _ = as_backbone(timm.create_model("deit_tiny_patch16_224.fb_in1k", num_classes=3, depth=1))
    assert backbone.input.mean == pytest.approx((0.485, 0.456, 0.406))
    with pytest.warns(UserWarning, match="does not say how its images are prepared"):
        as_backbone(resnet())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (3, "preprocessing is a int"),
        ({"img_size": "32"}, "img_size '32': give a number"),
        ({"sdt": [0.5]}, "did you mean 'std'"),
        ({"mean": [3.0] * 3}, "0 to 1"),
    ],
)
def test_preprocessing_that_is_none_is_refused(given: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        as_backbone(vit(), given)


@pytest.mark.usefixtures("plain_heads")
def test_a_timm_module_is_fitted_and_the_bundle_answers_as_it_does(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 90, (60, 32, 32, 3), dtype=np.uint8)
    images[np.arange(60), ..., labels] += 150
    model = vit(patch_size=16)
    head = torch.optim.AdamW(model.parameters(), 2e-3)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    for _ in range(12):
        head.zero_grad()
        nn.functional.cross_entropy(model(x), torch.from_numpy(labels)).backward()
        head.step()
    classifier = quee.fit(
        model,
        images,
        labels,
        tmp_path / "bundle",
        ["w8a8"],
        preprocessing={"crop_pct": 1.0},
        classes=["red", "green", "blue"],
    )
    with torch.inference_mode():
        answers = model.eval()(x).argmax(1).numpy()
    assert (answers == labels).mean() > 0.9
    assert (classifier.predict(images, budget=1.0) == answers).mean() > 0.9
    assert classifier.classes == ["red", "green", "blue"]
