"""Networks of other libraries for `quee.fit`: a module of timm, torchvision or transformers as a backbone of the same weights.

Its state dict goes through the layouts that read checkpoints. Names and shapes, and what the module says of itself, tell
the backbone and its keywords. Nothing of the module's own code is kept: a bundle builds the backbone by its name. Both
must give the same logits on some of the images; otherwise the module is refused.
"""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from quee.data.preprocessing import INTERPOLATIONS, KEYS, Preprocessing, spread
from quee.errors import QueeError, UsageError
from quee.network.architectures import create_backbone, is_backbone
from quee.network.base import SegmentedBackbone
from quee.network.checkpoints.layouts import Recognised, readable, recognise
from quee.network.checkpoints.reading import fit_state

TOLERANCE = 1e-4
"""Greatest difference of a logit, relative to the largest logit where that is above 1."""
COMPARED = 8
"""Number of images on which logits are compared."""
THE = "the model"
WRAPPERS = ("module", "_orig_mod")
"""Attributes by which DataParallel and `torch.compile` hold the module that they wrap."""


def as_backbone(model: Any, preprocessing: Any = None) -> tuple[SegmentedBackbone, nn.Module | None]:
    """The backbone of a module with its weights, and a float32 copy of the module in evaluation mode on the CPU.

    A backbone is returned as it is, with None. `preprocessing` is a mapping with some of mean, std, interpolation and
    crop_pct, timm's data configuration, torchvision's `weights.transforms()`, or an image processor of transformers. The
    module is not changed. Raises UsageError for a module that is no supported network.
    """
    if isinstance(model, SegmentedBackbone):
        if preprocessing is not None:
            raise UsageError("preprocessing goes with other libraries' modules; create_backbone takes a backbone's own")
        return model, None
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"quee.fit: the model is a {type(model).__name__}; give a torch module: a backbone of quee.create_backbone, or a "
            "classifier of timm, torchvision or transformers"
        )
    copy = _copy(model)
    try:
        found = recognise(_state(copy), THE)
        if not found.layout:
            raise UsageError(f"{THE} ({type(copy).__name__}) is of no layout that is read: {readable()}")
        channels = _channels(found.state)
        stated = {key: _spread(value, channels) for key, value in _stated(copy, preprocessing).items()}
        return _backbone(copy, found, stated), copy
    except QueeError as error:
        raise UsageError(f"quee.fit: {error}") from None


def refuse_other_answers(own: SegmentedBackbone, model: nn.Module, images: Tensor) -> None:
    """Raises UsageError where the logits of backbone and module differ on prepared images (n, c, h, w)."""
    images = images[:COMPARED]
    with torch.inference_mode():
        try:
            theirs = model(images)
        except Exception as error:  # a module's own code raises any type
            raise UsageError(
                f"quee.fit: {THE} fails on images of shape {tuple(images.shape)}: {_line(error)}"
            ) from None
        theirs = getattr(theirs, "logits", theirs)
        ours = own(images)
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        found = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        raise UsageError(f"quee.fit: {THE} gives {found} for {len(images)} images, not logits {tuple(ours.shape)}")
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(theirs.abs().max())):
        raise UsageError(
            f"quee.fit: {own.name} with the weights of {THE} gives other logits (by up to {difference:.2g}), so it is another "
            "network: a part without weights, as an activation, a pooling or the ε of a norm, is not the usual one"
        )


def _copy(model: nn.Module) -> nn.Module:
    while (inner := next((getattr(model, name) for name in WRAPPERS if _wraps(model, name)), None)) is not None:
        model = inner
    try:
        copy: nn.Module = deepcopy(model).cpu().float().eval()
    except Exception as error:  # such as tensors without data
        raise UsageError(f"quee.fit: {THE} cannot be copied to the CPU in float32: {_line(error)}") from None
    return copy.requires_grad_(False)


def _wraps(model: nn.Module, name: str) -> bool:
    return set(model._modules) == {name} and not list(model.parameters(recurse=False))


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_quantized or value.layout is not torch.strided:
            raise UsageError(f"{THE}: {key} is no plain tensor; weights that are quantized already are not read")
        if not value.isfinite().all():
            raise UsageError(f"{THE}: {key} has values that are not finite")
    return {key: value.detach().clone() for key, value in state.items()}


def _backbone(model: nn.Module, found: Recognised, preprocessing: dict[str, Any]) -> SegmentedBackbone:
    """The backbone with the recognised weights; raises QueeError where they do not fit one."""
    name, kwargs = _name(model, found)
    if (classes := _classes(model, found.state)) < 1:
        raise UsageError(f"{THE} ({type(model).__name__}) has no classification head")
    kwargs = {**kwargs, "num_classes": classes, **_asked_for(model, name, classes, found.state)}
    usual = create_backbone(name, **kwargs).input
    if changes := _changes(usual, preprocessing):
        kwargs["preprocessing"] = changes
    backbone = create_backbone(name, **kwargs)
    backbone.load_state_dict(fit_state(backbone, found.state, THE))
    return backbone


def _asked_for(model: nn.Module, name: str, classes: int, state: dict[str, Tensor]) -> dict[str, Any]:
    """Keywords in which the module differs from the backbone of that name."""
    asked: dict[str, Any] = {}
    usual = create_backbone(name, num_classes=classes)
    if (size := _image_size(model)) and size != usual.input.size:
        asked["img_size"] = list(size)
    if (heads := _heads(model)) and heads != _heads(usual):
        asked["num_heads"] = heads
    return {**asked, **usual.asked_for(state)}


def _heads(network: nn.Module) -> int | None:
    """Heads of the first block's attention; None where there is none."""
    found = getattr(next(iter(getattr(network, "blocks", [])), None), "attn", None)
    return getattr(found, "num_heads", None) or getattr(found, "heads", None)


def _changes(usual: Preprocessing, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from the backbone's own."""
    own = {key: _plain(getattr(usual, key)) for key in KEYS}
    return {key: value for key, value in stated.items() if value != own.get(key)}


def _name(model: nn.Module, found: Recognised) -> tuple[str, dict[str, Any]]:
    """Name and keywords: what the module says of itself, else what names and shapes of its weights tell."""
    config = _timm_config(model)
    for name in (f"{config.get('architecture')}.{config.get('tag')}", config.get("architecture")):
        if name and is_backbone(name):
            return name, {}
    if found.architecture:
        name, kwargs = import_module(found.architecture).named(found.state)
        return name, dict(kwargs)
    known = config.get("architecture") or type(model).__name__
    raise UsageError(f"{THE} ({known}, {found.layout}) does not say which backbone it is, and its weights do not tell")


def _timm_config(model: nn.Module) -> Mapping[str, Any]:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    return config if isinstance(config, Mapping) else {}


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int:
    """Rows of the head; 0 where there is none."""
    head = next((state[key] for key in ("head.weight", "head.fc.weight", "fc.weight") if key in state), None)
    if head is not None:
        return len(head)
    told = getattr(model, "num_classes", None)
    return told if isinstance(told, int) else 0


def _channels(state: Mapping[str, Tensor]) -> int:
    """Channels of images, by the first convolution."""
    return next((value.shape[1] for value in state.values() if value.dim() == 4), 3)


def _spread(value: Any, channels: int) -> Any:
    """A mean or deviation of RGB for grey images is the average; others stay."""
    return [*spread(value, channels)] if isinstance(value, list) and channels == 1 else value


def _image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width for which the module was built, if it says so."""
    places = (getattr(model, "patch_embed", None), model, getattr(model, "config", None))
    for place in places:
        size = getattr(place, "img_size", None) or getattr(place, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, tuple | list) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def _stated(model: nn.Module, given: Any) -> dict[str, Any]:
    """Fields of the preprocessing that are given, or that timm's configuration of the module has; warns where there are none."""
    if given is None:
        if config := _timm_config(model):
            return {key: _plain(config[key]) for key in KEYS if config.get(key) is not None}
        warnings.warn(
            f"{THE} does not say how its images are prepared: they get what is usual for this network; give preprocessing=…, "
            "as weights.transforms() of torchvision or the image processor of transformers",
            stacklevel=4,
        )
        return {}
    if isinstance(given, Mapping):
        return _from_mapping(given)
    if hasattr(given, "image_mean") and hasattr(given, "image_std"):
        return _from_processor(given)
    if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
        return _from_transforms(given)
    raise UsageError(
        f"preprocessing is a {type(given).__name__}; valid: a mapping with {', '.join(KEYS)}, timm's data configuration, "
        "weights.transforms() of torchvision, an image processor of transformers"
    )


def _from_mapping(given: Mapping[str, Any]) -> dict[str, Any]:
    if "input_size" not in given:
        return {key: _plain(value) for key, value in given.items()}  # create_backbone refuses unknown keys
    if given.get("crop_mode", "center") not in ("center", None):
        raise UsageError(f"preprocessing: crop_mode {given['crop_mode']!r}; valid: 'center'")
    return {key: _plain(given[key]) for key in KEYS if given.get(key) is not None}


def _from_transforms(given: Any) -> dict[str, Any]:
    """torchvision's ImageClassification preset."""
    resized, cropped = given.resize_size, given.crop_size
    if resized is not None and len(resized) != 1:
        raise UsageError(f"preprocessing: resize_size {resized} changes the shape of images, which is not done here")
    return {
        "mean": _plain(given.mean),
        "std": _plain(given.std),
        "interpolation": given.interpolation.value,
        "crop_pct": 1.0 if resized is None else cropped[0] / resized[0],
    }


def _from_processor(given: Any) -> dict[str, Any]:
    """An image processor of transformers."""
    if not getattr(given, "do_normalize", True):
        raise UsageError("preprocessing: do_normalize is off; give a mapping: mean [0, 0, 0] and std [1, 1, 1]")
    found = {"mean": _plain(given.image_mean), "std": _plain(given.image_std)}
    names = {resampling: name for name, resampling in INTERPOLATIONS.items()}
    if getattr(given, "resample", None) is not None:
        found["interpolation"] = names[Resampling(given.resample)]
    size = getattr(given, "size", None)
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if shortest and getattr(given, "do_center_crop", False):
        found["crop_pct"] = given.crop_size["height"] / shortest
    else:
        found["crop_pct"] = float(getattr(given, "crop_pct", None) or 1.0)
    return found


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, tuple | list) else value


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
