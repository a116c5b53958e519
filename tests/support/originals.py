"""Small networks of other libraries with random weights, written by these libraries, and the images they are tried on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.transforms import v2

CLASSES = 3
LABELS = {0: "cat", 1: "dog", 2: "eel"}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": CLASSES,
    "id2label": LABELS,
}
DINOV2 = {**{k: v for k, v in VIT.items() if k != "intermediate_size"}, "image_size": 48}
BEIT = {**VIT, "use_relative_position_bias": True}
RESNET: dict[str, Any] = {
    "embedding_size": 64,
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 2, 1, 1],
    "id2label": LABELS,
}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "id2label": LABELS}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "id2label": LABELS,
}


@dataclass(frozen=True)
class Original:
    """A network of another library with what prepares its images."""

    network: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    """An RGB image to (1, c, h, w)."""
    save: Callable[[Path], Path]
    """Writes file or folder below a folder, and returns it."""

    @torch.inference_mode()
    def logits(self, paths: list[Path]) -> Tensor:
        """(n, classes)."""
        opened = (ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths)
        found = self.network(torch.cat([self.prepare(image) for image in opened]))
        return found if isinstance(found, Tensor) else found.logits


def photographs(folder: Path) -> list[Path]:
    """Photographs of odd sizes: colours, grey, with a palette, and turned by EXIF."""
    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    paths = [folder / name for name in ("odd.png", "grey.png", "palette.png", "turned.jpg", "small.png")]
    china.resize((61, 45)).save(paths[0])
    flower.resize((53, 75)).convert("L").save(paths[1])
    flower.resize((47, 38)).convert("P", palette=Image.Palette.ADAPTIVE).save(paths[2])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    china.crop((100, 50, 291, 171)).save(paths[3], exif=exif, quality=95)
    flower.resize((29, 20)).save(paths[4])
    return paths


def randomised(network: nn.Module) -> nn.Module:
    """The network with weights that keep signals alive, without the special values of norms and position tables."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            scale = 0.2 if value.dim() < 2 else value[0].numel() ** -0.5
            of_norm = value.dim() == 1 and name.endswith("weight")
            value.copy_(torch.randn(value.shape, generator=source) * scale + of_norm)
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=source) * 0.2)
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=source))
    return network.eval()


def lively(network: nn.Module) -> nn.Module:
    """The network with random weights behind which signals grow, where many layers let them die."""
    network = randomised(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.div_(2)  # type: ignore[union-attr]
            module.running_mean.zero_()  # type: ignore[union-attr]
    return network


def of_transformers(model: str, config: dict[str, Any], processor: str, **settings: Any) -> Callable[[], Original]:
    """A network and a processor by the names of their classes in transformers, without `Config` and `ImageProcessorPil`."""

    def make() -> Original:
        import transformers
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        name = model.removesuffix("WithTeacher").removesuffix("ForImageClassification").removesuffix("Model")
        network = getattr(transformers, model)(getattr(transformers, f"{name}Config")(**config))
        prepared = getattr(transformers, f"{processor}ImageProcessorPil")(**settings)

        def save(folder: Path) -> Path:
            network.save_pretrained(folder)
            prepared.save_pretrained(folder)
            return folder

        return Original(randomised(network), lambda image: prepared(image, return_tensors="pt")["pixel_values"], save)

    return make


def of_file(
    network: Callable[[], nn.Module],
    prepare: Callable[[Image.Image], Tensor],
    weights: Callable[[nn.Module], nn.Module] = randomised,
) -> Callable[[], Original]:
    """A network whose state dict alone is saved, with the weights that a function gives it."""

    def make() -> Original:
        made = weights(network())

        def save(folder: Path) -> Path:
            torch.save(made.state_dict(), folder / "weights.pth")
            return folder / "weights.pth"

        return Original(made, lambda image: prepare(image)[None], save)

    return make


def transform(size: int) -> Callable[[Image.Image], Tensor]:
    """torchvision's preparation of images: shorter side to 8/7 of the size, bilinear, and the centre."""
    steps = [v2.Resize(size * 8 // 7), v2.CenterCrop(size), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize(MEAN, STD)])


def _torchvision_convnext() -> nn.Module:
    widths = ((8, 16, 1), (16, 24, 1), (24, 32, 2), (32, None, 1))
    models = torchvision.models.convnext
    return models.ConvNeXt([models.CNBlockConfig(*width) for width in widths], num_classes=CLASSES)


def _torchvision_swin_v2() -> nn.Module:
    models = torchvision.models.swin_transformer
    parts = {"block": models.SwinTransformerBlockV2, "downsample_layer": models.PatchMergingV2}
    return models.SwinTransformer([4, 4], 16, [2, 2, 2], [2, 4, 4], [4, 4], num_classes=CLASSES, **parts)


def of_timm(name: str, **kwargs: Any) -> Callable[[], Original]:
    """timm's network with what timm's hub keeps: weights, configuration, labels."""

    def make() -> Original:
        from timm.models._hub import save_for_hf

        network = timm.create_model(name, num_classes=CLASSES, **kwargs)
        network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, 64, 64), "crop_mode": "squash"}
        network.pretrained_cfg |= {"crop_pct": 0.9}
        prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))

        def save(folder: Path) -> Path:
            labels = {"label_names": list(LABELS.values())}
            save_for_hf(network, folder, labels, model_args=kwargs, safe_serialization="both")
            return folder

        return Original(randomised(network), lambda image: prepare(image)[None], save)

    return make


SQUARE = {"size": {"height": 32, "width": 32}}
ODD_CROP = {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}}
SHORTER = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}
SETTINGS: dict[str, Any] = {"preprocessing": {"mean": MEAN, "std": STD, "interpolation": "bilinear", "crop_pct": 0.875}}
"""What a state dict of torchvision does not say."""
TORCHVISION_VIT = {"embed_dim": 32, "depth": 4, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8, "img_size": 32}


@dataclass(frozen=True)
class Case:
    """One original, and what has to be said when it is imported."""

    layout: str
    make: Callable[[], Original]
    backbone: str | None = None
    """The backbone; None where the files say it."""
    kwargs: dict[str, Any] = field(default_factory=dict)


HEADLESS = "Hugging Face DINOv3"
"""The layout whose original has no head; it has a test of its own."""
HF_VIT, HF_DINOV2, HF_BEIT = "Hugging Face ViT or DeiT", "Hugging Face DINOv2", "Hugging Face BEiT"
ORIGINALS = {
    "ViT": Case(HF_VIT, of_transformers("ViTForImageClassification", VIT, "ViT", **SQUARE)),
    "ViT with other settings": Case(
        HF_VIT,
        of_transformers(
            "ViTForImageClassification",
            {**VIT, "hidden_act": "quick_gelu", "qkv_bias": False, "layer_norm_eps": 1e-3},
            "ViT",
            **{**SQUARE, "resample": 3, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        ),
    ),
    "DeiT": Case(HF_VIT, of_transformers("DeiTForImageClassification", VIT, "DeiT", **ODD_CROP)),
    "DeiT with a teacher": Case(
        HF_VIT, of_transformers("DeiTForImageClassificationWithTeacher", VIT, "DeiT", **ODD_CROP)
    ),
    "DINOv2 at another size": Case(
        HF_DINOV2, of_transformers("Dinov2ForImageClassification", DINOV2, "Bit", **SHORTER)
    ),
    "DINOv2 with gated MLPs": Case(
        HF_DINOV2,
        of_transformers("Dinov2ForImageClassification", {**DINOV2, "use_swiglu_ffn": True}, "Bit", **SHORTER),
    ),
    "DINOv2 with registers at another size": Case(
        HF_DINOV2, of_transformers("Dinov2WithRegistersForImageClassification", DINOV2, "Bit", **SHORTER)
    ),
    "torchvision's ViT": Case(
        "torchvision ViT",
        of_file(lambda: torchvision.models.VisionTransformer(32, 8, 4, 4, 32, 64, num_classes=CLASSES), transform(32)),
        "vit_tiny_patch16_224",
        {**TORCHVISION_VIT, **SETTINGS},
    ),
    "BEiT": Case(HF_BEIT, of_transformers("BeitForImageClassification", BEIT, "Beit", **SQUARE)),
    "BEiT that reads its class token": Case(
        HF_BEIT,
        of_transformers(
            "BeitForImageClassification",
            {**BEIT, "use_mean_pooling": False, "use_absolute_position_embeddings": True},
            "Beit",
            **SQUARE,
        ),
    ),
    "Swin": Case("Hugging Face Swin Transformer", of_transformers("SwinForImageClassification", SWIN, "ViT", **SQUARE)),
    "Swin V2": Case(
        "Hugging Face Swin Transformer V2", of_transformers("Swinv2ForImageClassification", SWIN, "ViT", **SQUARE)
    ),
    "Swin V2 that was trained with smaller windows": Case(
        "Hugging Face Swin Transformer V2",
        of_transformers("Swinv2ForImageClassification", {**SWIN, "pretrained_window_sizes": [3, 2]}, "ViT", **SQUARE),
    ),
    "ConvNeXt": Case(
        "Hugging Face ConvNeXt",
        of_transformers("ConvNextForImageClassification", CONVNEXT, "ConvNext", size={"shortest_edge": 48}),
    ),
    "ConvNeXt V2": Case(
        "Hugging Face ConvNeXt",
        of_transformers("ConvNextV2ForImageClassification", CONVNEXT, "ConvNext", size={"shortest_edge": 64}),
    ),
    "ResNet": Case(
        "Hugging Face ResNet",
        of_transformers("ResNetForImageClassification", RESNET, "ConvNext", size={"shortest_edge": 48}),
    ),
    "ResNet without bottlenecks": Case(
        "Hugging Face ResNet",
        of_transformers(
            "ResNetForImageClassification", {**RESNET, "layer_type": "basic"}, "ConvNext", size={"shortest_edge": 48}
        ),
    ),
    "torchvision's ResNet": Case(
        "torchvision's or timm's ResNet",
        of_file(lambda: torchvision.models.resnet18(num_classes=CLASSES), transform(48)),
        kwargs={"img_size": 48, **SETTINGS},
    ),
    "torchvision's ConvNeXt": Case(
        "torchvision's ConvNeXt",
        of_file(_torchvision_convnext, transform(48)),
        kwargs={"img_size": 48, **SETTINGS},
    ),
    "torchvision's Swin": Case(
        "torchvision's Swin Transformer",
        of_file(
            lambda: torchvision.models.SwinTransformer([4, 4], 16, [2, 2, 2], [2, 4, 4], [4, 4], num_classes=CLASSES),
            transform(64),
        ),
        kwargs=SETTINGS,
    ),
    "torchvision's Swin V2": Case(
        "torchvision's Swin Transformer V2",
        of_file(_torchvision_swin_v2, transform(64)),
        kwargs=SETTINGS,
    ),
    "torchvision's EfficientNet": Case(
        "torchvision's EfficientNet",
        of_file(lambda: torchvision.models.efficientnet_b0(num_classes=CLASSES), transform(64), lively),
        kwargs={"img_size": 64, **SETTINGS},
    ),
    "torchvision's EfficientNet V2": Case(
        "torchvision's EfficientNet",
        of_file(lambda: torchvision.models.efficientnet_v2_s(num_classes=CLASSES), transform(64)),
        kwargs={"img_size": 64, **SETTINGS},
    ),
    "torchvision's MobileNetV3": Case(
        "torchvision's MobileNetV3",
        of_file(lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES), transform(64), lively),
        kwargs={"img_size": 64, **SETTINGS},
    ),
    "timm's ConvNeXt": Case("timm's ConvNeXt", of_timm("convnext_atto", depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])),
    "timm's Swin": Case(
        "Swin Transformer, timm's or the authors' names",
        of_timm(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
    ),
    "timm's BEiT": Case(
        "BEiT, timm's or the authors' names",
        of_timm("beit_base_patch16_224", img_size=64, embed_dim=32, depth=4, num_heads=4),
    ),
    "timm's ViT": Case(
        "timm ViT",
        of_timm("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=4, num_heads=4),
    ),
}
"""By name."""
