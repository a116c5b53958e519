"""What the files beside the weights of a folder say: the network's task, its labels, the preparation of its images.

These are the files of Hugging Face's transformers and of timm on its hub. Code that they name is not run.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nextafter
from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from quee.data.preprocessing import resized_by
from quee.errors import DamagedError, IntegrityError, QueeError, one_line
from quee.work.registry import unknown

CONFIG, PROCESSOR, ADAPTER = "config.json", "preprocessor_config.json", "adapter_config.json"
MAX_BYTES = 16 << 20
"""Largest size of a file of settings."""
TASKS = ("ForImageClassification", "ForImageClassificationWithTeacher", "Model", "ForMaskedImageModeling", "Backbone")
"""Ends of the names of transformers' classes whose weights hold a classifier, or one without a head."""
RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations."""
_SQUARE = {"height": 224, "width": 224}
_USUAL: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "rescale_factor": 1 / 255,
}
_USUAL |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": _SQUARE}
_BY_CLIP: dict[str, Any] = {
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "image_mean": list(OPENAI_CLIP_MEAN),
    "image_std": list(OPENAI_CLIP_STD),
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": _SQUARE, "resample": 2},
    "DINOv3ViT": {
        "size": _SQUARE,
        "resample": 2,
        "image_mean": list(IMAGENET_DEFAULT_MEAN),
        "image_std": list(IMAGENET_DEFAULT_STD),
    },
    "DeiT": {"size": {"height": 256, "width": 256}, "resample": 3, "do_center_crop": True},
    "Beit": {"size": _SQUARE, "resample": 3},
    "ConvNext": {"size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 224 / 256},
    "Bit": _BY_CLIP,
    "CLIP": _BY_CLIP,
}
"""Image processors of transformers by the beginning of their names, with the settings that a file may leave out."""
WARPED_FROM = 384
"""Size from which ConvNeXt's processor resizes both sides and crops nothing."""


@dataclass(frozen=True)
class Prepared:
    """The images that a network was trained with."""

    size: tuple[int, int]
    """Height and width."""
    preprocessing: dict[str, Any]
    """Fields of `quee.data.preprocessing.Preprocessing` by name."""


@dataclass(frozen=True)
class Described:
    """What a folder says beside its weights; empty for a file alone."""

    config: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of the outputs; None where the folder has no names."""
    outputs: int | None = None
    """Number of outputs; None where the folder does not say."""
    prepared: Prepared | None = None
    facts: tuple[str, ...] = ()

    @property
    def timm_name(self) -> str:
        """timm's name of the network; empty in configurations of transformers."""
        name = self.config.get("architecture", "")
        tag = (self.config.get("pretrained_cfg") or {}).get("tag") or ""
        return f"{name}.{tag}" if name and tag else str(name)


def describe(folder: Path) -> Described:
    """The settings of a folder of weights.

    Raises QueeError for a network of another task, a quantized one, or a value of another kind than wanted, and
    IntegrityError for a link to nothing.
    """
    for name in (ADAPTER, CONFIG, PROCESSOR):
        if (folder / name).is_symlink() and not (folder / name).exists():
            raise IntegrityError(f"{folder / name} is a link to a file that is not there: {(folder / name).readlink()}")
    if (folder / ADAPTER).is_file():
        kind = _read(folder / ADAPTER).get("peft_type", "LoRA")
        raise QueeError(
            f"{folder} holds a {kind} adapter ({ADAPTER}), no network; merge it first: model.merge_and_unload(), then "
            "model.save_pretrained(FOLDER)"
        )
    if not (folder / CONFIG).is_file():
        if (folder / PROCESSOR).is_file():
            raise QueeError(f"{folder} has {PROCESSOR} without {CONFIG}, which says what network it is for")
        return Described()
    config = _read(folder / CONFIG)
    _refuse_other(folder, config)
    if "architecture" in config:
        with plain_values(folder / CONFIG):
            return _of_timm(folder, config)
    facts: tuple[str, ...] = (f"as {CONFIG} says",)
    named = config.get("id2label") or {}
    outputs = len(named) or None
    if isinstance(config.get("num_labels"), int):
        outputs = outputs or config["num_labels"]
    if not (folder / PROCESSOR).is_file():
        facts += (f"without {PROCESSOR}: images are prepared as the backbone's own configuration says",)
        return Described(config, _names(folder, named), outputs, None, facts)
    with plain_values(folder / PROCESSOR):
        prepared = prepared_by(_read(folder / PROCESSOR), config)
    return Described(config, _names(folder, named), outputs, prepared, facts)


@contextmanager
def plain_values(source: str | Path) -> Iterator[None]:
    """Says the source of faults in a file of settings, of which a value of another kind than wanted is one."""
    try:
        yield
    except QueeError as error:
        raise type(error)(f"{source}: {str(error).removeprefix(f'{source}: ')}") from None
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        raise QueeError(f"{source} has a value of another kind than is wanted there: {one_line(error)}") from None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; raises QueeError for anything else."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise QueeError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is not a JSON object")
    return content


def _refuse_other(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises QueeError for a network that is no classifier of images into one of its classes, or not in plain numbers."""
    path = folder / CONFIG
    if quantized := config.get("quantization_config") or config.get("compression_config"):
        how = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise QueeError(
            f"{path}: its weights are quantized ({how or 'quantization_config'}); give the weights before that"
        )
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise QueeError(
            f"{path}: problem_type {config['problem_type']!r}: its head does not choose one class; quee runs classifiers "
            "into one of several classes"
        )
    named = config.get("architectures") or ()
    for name in [named] if isinstance(named, str) else named:
        if not str(name).endswith(TASKS):
            raise QueeError(
                f"{path}: {name} is no image classifier; run are networks with {TASKS[0]} or without a head"
            )
    if "auto_map" in config and "model_type" not in config:
        raise QueeError(f"{path}: the network is code of its own ({CONFIG}: auto_map), which is not run")


def _names(folder: Path, id2label: Any) -> tuple[str, ...] | None:
    """Names in the order of outputs; None where they are only numbers, as `LABEL_0`."""
    try:
        found = {int(key): str(value) for key, value in id2label.items()}
    except (AttributeError, ValueError):
        raise QueeError(f"{folder / CONFIG}: labels must map the numbers of outputs to names") from None
    if sorted(found) != list(range(len(found))):
        raise QueeError(
            f"{folder / CONFIG}: labels have the numbers {sorted(found)[:5]}…; wanted are 0 to {len(found) - 1}"
        )
    if all(found[index] in (f"LABEL_{index}", str(index)) for index in found):
        return None
    return tuple(found[index] for index in range(len(found)))


def prepared_by(processor: Mapping[str, Any], config: Mapping[str, Any]) -> Prepared:
    """The preparation of images by a file of settings of transformers' image processors, as they execute it with Pillow.

    Raises QueeError for a processor or a step that is not executed here.
    """
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ViTImageProcessor")
    known = next((known for known in PROCESSORS if kind.startswith(known)), "")
    if not known:
        advice = "; or remove the file and give --set 'preprocessing={mean: …, std: …, interpolation: …, crop_pct: …}'"
        raise QueeError(unknown("image processor", kind, [f"{known}ImageProcessor" for known in PROCESSORS]) + advice)
    told = {**_USUAL, **PROCESSORS[known], **{key: value for key, value in processor.items() if value is not None}}
    if not told["do_resize"]:
        raise QueeError("do_resize is false: images would keep their own sizes, which is not run here")
    if told.get("do_pad"):
        raise QueeError("do_pad is true, which is not run here")
    if told["resample"] not in RESAMPLES:
        raise QueeError(f"resample {told['resample']!r} is not run here; run are {RESAMPLES}")
    height, width, resize = _sides(told["size"], square=known in ("ViT", "DINOv3ViT", "DeiT", "Beit"))
    fields: dict[str, Any] = {"interpolation": RESAMPLES[told["resample"]], "crop_offset": "floor", "resize": resize}
    size, resized = (height, width), (height, width)
    if known == "ConvNext":
        if resize != "shorter":
            raise QueeError(f"size {told['size']!r}: a {known}ImageProcessor wants shortest_edge")
        if height < WARPED_FROM:
            resized = (int(height / told["crop_pct"]),) * 2
        else:
            fields["resize"] = "both"
    if told["do_center_crop"]:
        size = _sides(told["crop_size"], square=True)[:2]
    elif resize == "shorter" and known != "ConvNext":
        raise QueeError(
            "do_center_crop is false with a shortest_edge: images would have different shapes, which is not run"
        )
    fields["crop_pct"] = _share(size, resized)
    factor = told["rescale_factor"] if told["do_rescale"] else 1
    mean, deviation = (told["image_mean"], told["image_std"]) if told["do_normalize"] else (0, 1)
    channels = config.get("num_channels", 3)
    fields |= {"mean": _scaled(mean, factor, channels), "std": _scaled(deviation, factor, channels)}
    return Prepared(size, fields)


def _sides(size: Any, square: bool) -> tuple[int, int, str]:
    """Height, width, and what is resized to them; a number alone is a square or the shorter side, as processors differ."""
    sides = [size, size] if isinstance(size, int) else size
    if isinstance(sides, dict) and set(sides) == {"height", "width"}:
        sides, square = [sides["height"], sides["width"]], True
    elif isinstance(sides, dict) and set(sides) == {"shortest_edge"}:
        sides, square = [sides["shortest_edge"]] * 2, False
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise QueeError(f"size {size!r} is not run here; run are height and width, or shortest_edge")
    return sides[0], sides[1], "both" if square else "shorter"


def _share(size: tuple[int, int], resized: tuple[int, int]) -> float:
    """`crop_pct` by which an image is first resized to `resized`: the share that the crop keeps, rounded so that it does."""
    if size[0] > resized[0] or size[1] > resized[1]:
        raise QueeError(f"the crop {size} is larger than the resized image {resized}, which is not run here")
    share = size[0] / resized[0]
    while int(size[0] / share) < resized[0]:
        share = nextafter(share, 0)
    if (int(size[0] / share), int(size[1] / share)) != resized:
        raise QueeError(f"an image resized to {resized} and cropped to {size} keeps different shares of its sides")
    return share


def _scaled(values: Any, factor: float, channels: int) -> list[float]:
    """Means or deviations of pixels from 0 to 1, where a processor multiplies pixels from 0 to 255 by a factor."""
    listed = list(values) if isinstance(values, list | tuple) else [values] * channels
    if (
        not all(isinstance(value, int | float) for value in listed)
        or not isinstance(factor, int | float)
        or factor <= 0
    ):
        raise QueeError(f"image_mean, image_std and rescale_factor must be numbers; got {values!r}, {factor!r}")
    usual = abs(factor * 255 - 1) < 1e-9
    return [float(value) if usual else value / (255 * factor) for value in listed]


def _of_timm(folder: Path, config: Mapping[str, Any]) -> Described:
    """The configuration that timm writes beside weights for its hub."""
    given = config.get("pretrained_cfg") or config
    size = given.get("input_size")
    prepared = None
    if isinstance(size, list) and len(size) == 3:
        resize = resized_by(given.get("crop_mode", "center"))
        fields = {key: given[key] for key in ("mean", "std", "interpolation", "crop_pct") if given.get(key) is not None}
        prepared = Prepared((size[1], size[2]), {**fields, "resize": resize})
    names, outputs = config.get("label_names") or given.get("label_names"), config.get("num_classes")
    numbered = dict(enumerate(names)) if isinstance(names, list) else names or {}
    classes = _names(folder, numbered) if len(numbered) == outputs else None
    return Described(config, classes, outputs or None, prepared, (f"as {CONFIG} says",))
