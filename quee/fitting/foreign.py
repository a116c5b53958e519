"""Networks of other libraries for `quee.fit`: a module of timm, torchvision or transformers as a backbone of the same weights.

Its state dict goes through the layouts that read checkpoints. Names and shapes, and what the module says of itself, tell
the backbone and its keywords. Nothing of the module's own code is kept: a bundle builds the backbone by its name. Both
must give the same logits on some of the images; otherwise the module is refused.
"""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from quee.data.preprocessing import KEYS, Preprocessing, resized_by, spread
from quee.errors import QueeError, UsageError, one_line
from quee.network.architectures import create_backbone, is_backbone
from quee.network.base import SegmentedBackbone
from quee.network.checkpoints.described import Prepared, prepared_by
from quee.network.checkpoints.layout import Named
from quee.network.checkpoints.layouts import Recognised, recognise
from quee.network.checkpoints.reading import fit_state, plain

TOLERANCE = 1e-4
"""Greatest difference of a logit, relative to the largest logit where that is above 1."""
COMPARED = 8
"""Number of images on which logits are compared."""
THE = "the model"
WRAPPERS = ("module", "_orig_mod")
"""Attributes by which DataParallel and `torch.compile` hold the module that they wrap."""


def as_backbone(model: Any, preprocessing: Any = None) -> tuple[SegmentedBackbone, nn.Module | None]:
    """The backbone of a module with its weights, and a float32 copy of the module in evaluation mode on the CPU.

    A backbone is returned as it is, with None. `preprocessing` is a mapping with some of mean, std, interpolation,
    crop_pct and img_size, timm's data configuration, torchvision's `weights.transforms()`, or an image processor of
    transformers. The module is not changed. Raises UsageError for a module that is no supported network.
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
            raise UsageError(
                f"{THE} ({type(copy).__name__}) is of no layout that is read; docs/backbones.md lists the families, of which "
                "quee.create_backbone makes a backbone"
            )
        return _backbone(copy, found, _stated(copy, preprocessing)), copy
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
    return {key: plain(key, value, THE) for key, value in model.state_dict().items()}


def _backbone(model: nn.Module, found: Recognised, stated: Prepared) -> SegmentedBackbone:
    """The backbone with the recognised weights; raises QueeError where they do not fit one."""
    named = _named(model, found, stated.size)
    state = found.state if named.state is None else named.state
    kwargs = {**named.kwargs, **_asked_for(model, named, state, stated.size)}
    usual = create_backbone(named.name, **kwargs).input
    if changes := _changes(usual, stated.preprocessing):
        kwargs["preprocessing"] = changes
    backbone = create_backbone(named.name, **kwargs)
    backbone.load_state_dict(fit_state(backbone, state, THE))
    return backbone


def _named(model: nn.Module, found: Recognised, size: tuple[int, int]) -> Named:
    """Name and keywords: what the module says of itself, else what names and shapes of its weights tell."""
    timm = _timm_config(model)
    for name in (f"{timm.get('architecture')}.{timm.get('tag')}", timm.get("architecture")):
        if name and is_backbone(name):
            return Named(name, {})
    layout, config = found.found, _config(model)
    if layout is not None and layout.configured is not None and config.get("model_type") in layout.model_types:
        return layout.configured(config, found.state, size if all(size) else None)
    named = None if layout is None or layout.named is None else layout.named(found.state)
    if named is None:
        known = timm.get("architecture") or type(model).__name__
        raise UsageError(
            f"{THE} ({known}, {found.layout}) does not say which backbone it is, and its weights do not tell"
        )
    return named


def _config(model: nn.Module) -> dict[str, Any]:
    """The configuration of a module of transformers, as `config.json` has it; empty for other modules."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    found = to_dict() if callable(to_dict) else {}
    return found if isinstance(found, dict) else {}


def _asked_for(model: nn.Module, named: Named, state: Mapping[str, Tensor], stated: tuple[int, int]) -> dict[str, Any]:
    """Keywords in which the module differs from the backbone of that name, and the size of images that is stated."""
    with torch.device("meta"):
        usual = create_backbone(named.name, **{"num_classes": 1, **named.kwargs})
    if (classes := usual.classes_in(state)) is None:
        raise UsageError(f"{THE} ({type(model).__name__}) has no classification head")
    asked = {"num_classes": classes, **usual.asked_for(state)}
    if all(stated) and _image_size(model) is None and "img_size" not in named.kwargs:
        asked["img_size"] = stated[0] if stated[0] == stated[1] else list(stated)
    elif (size := _image_size(model)) and size != usual.input.size and "img_size" not in named.kwargs:
        asked["img_size"] = list(size)
    if (count := _heads(model)) and count != _heads(usual):
        asked["num_heads"] = count
    return asked


def _heads(network: nn.Module) -> int | None:
    """Heads of the first block's attention; None where there is none."""
    found = getattr(next(iter(getattr(network, "blocks", [])), None), "attn", None)
    return getattr(found, "num_heads", None) or getattr(found, "heads", None)


def _changes(usual: Preprocessing, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from the backbone's own. A mean or deviation of RGB is averaged for grey images."""
    found = {}
    for key, value in stated.items():
        told = [*spread(value, 1)] if isinstance(value, list) and usual.channels == 1 else value
        if told != _plain(getattr(usual, key, None)):
            found[key] = told
    return found


def _timm_config(model: nn.Module) -> Mapping[str, Any]:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    return config if isinstance(config, Mapping) else {}


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


def _stated(model: nn.Module, given: Any) -> Prepared:
    """The preprocessing that is given, or that timm's configuration of the module has; warns where there is none.

    The size is (0, 0) where it is not said.
    """
    if given is None:
        if config := _timm_config(model):
            return Prepared((0, 0), _from_timm(config))
        warnings.warn(
            f"{THE} does not say how its images are prepared: they get what is usual for this network; give preprocessing=…, "
            "as weights.transforms() of torchvision or the image processor of transformers",
            stacklevel=4,
        )
        return Prepared((0, 0), {})
    if isinstance(given, Mapping):
        if "input_size" in given:
            return Prepared(_sides(given["input_size"][1:]), _from_timm(given))
        fields = {key: _plain(value) for key, value in given.items() if key != "img_size"}
        return Prepared(_sides(given.get("img_size", 0)), fields)
    if hasattr(given, "image_mean") and callable(getattr(given, "to_dict", None)):
        try:
            return prepared_by(given.to_dict(), _config(model))
        except QueeError as error:
            raise UsageError(f"preprocessing: {error}") from None
    if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
        return Prepared(_sides(given.crop_size), _from_transforms(given))
    raise UsageError(
        f"preprocessing is a {type(given).__name__}; valid: a mapping with {', '.join((*KEYS, 'img_size'))}, timm's data "
        "configuration, weights.transforms() of torchvision, an image processor of transformers"
    )


def _sides(given: Any) -> tuple[int, int]:
    """Height and width of images from one number or two; (0, 0) where nothing is said."""
    sides = [given] if isinstance(given, int) else given
    whole = isinstance(sides, Sequence) and all(type(side) is int and side >= 0 for side in sides)
    if not whole or len(sides) not in (1, 2):
        raise UsageError(f"preprocessing: img_size {given!r}: give a number of pixels, or height and width")
    return sides[0], sides[-1]


def _from_timm(given: Mapping[str, Any]) -> dict[str, Any]:
    """timm's configuration of a network or of its data."""
    found = {key: _plain(given[key]) for key in KEYS if given.get(key) is not None}
    return {**found, "resize": resized_by(given.get("crop_mode") or "center")}


def _from_transforms(given: Any) -> dict[str, Any]:
    """torchvision's ImageClassification preset."""
    resized, cropped = given.resize_size or given.crop_size, given.crop_size
    found = {"mean": _plain(given.mean), "std": _plain(given.std), "interpolation": given.interpolation.value}
    if len(resized) > 1:
        found["resize"] = "both"
    return {**found, "crop_pct": cropped[0] / resized[0]}


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, tuple | list) else value


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
