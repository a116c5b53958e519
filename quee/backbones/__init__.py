"""Registry of backbones: `create_backbone(name, **kwargs) -> SegmentedBackbone`.

Importing this package imports no torch: settings are checked against names alone.
"""

from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any

from quee.errors import QueeError, UsageError
from quee.registry import Registry, unknown

if TYPE_CHECKING:
    from quee.backbones.base import SegmentedBackbone

BACKBONES: Registry[str] = Registry("backbone")
"""Name to `module:function`, so that only the one asked for is imported."""

BACKBONES.register("vit_digits")("quee.backbones.timm_vit:vit_digits")
BACKBONES.register("vit_fashion_mnist")("quee.backbones.timm_vit:vit_fashion_mnist")
BACKBONES.register("vit_small_patch14_dinov2.lvd142m")("quee.backbones.dinov2:vit_small_patch14")
for _name in ("7", "10", "12", "14", "19", "24", "t_14"):
    BACKBONES.register(f"t2t_vit_{_name}")(f"quee.backbones.t2t_vit:t2t_vit_{_name}")

TIMM_PREFIXES = ("vit_", "deit_", "deit3_")
"""Names with these beginnings are looked up among timm's VisionTransformers."""

READS_FILES = ("pretrained", "checkpoint", "cache")
"""Beginnings of keywords by which an architecture would read files of its own; a bundle admits none."""


def outside_files(kwargs: Mapping[str, Any]) -> list[str]:
    """Which keywords would have an architecture read files beside its weights."""
    return [key for key in kwargs if key.startswith(READS_FILES)]


def backbone_names() -> list[str]:
    return [*BACKBONES, *(f"{prefix}* (timm's VisionTransformers)" for prefix in TIMM_PREFIXES)]


def is_backbone(name: str) -> bool:
    if name in BACKBONES:
        return True
    if not name.startswith(TIMM_PREFIXES):
        return False
    from quee.backbones.timm_vit import is_timm_vit

    return is_timm_vit(name)


def create_backbone(
    name: str, gates: tuple[int, ...] | None = None, preprocessing: dict[str, Any] | None = None, **kwargs: Any
) -> "SegmentedBackbone":
    """Build a backbone with random weights, in evaluation mode.

    `gates` are the numbers of blocks done at each gate (default: four equal segments); `preprocessing` replaces mean,
    std, interpolation or crop_pct of the backbone's own configuration; `kwargs` go to the architecture.
    Raises UsageError for an unknown name, keyword or gate.
    """
    if not is_backbone(name):
        raise UsageError(unknown("backbone", name, backbone_names()))
    if name in BACKBONES:
        module, _, function = BACKBONES[name].partition(":")
        build = getattr(import_module(module), function)
    else:
        from functools import partial

        from quee.backbones.dinov2 import dinov2
        from quee.backbones.timm_vit import timm_vit

        build = partial(dinov2 if "_dinov2" in name else timm_vit, name)
    try:
        backbone: SegmentedBackbone = build(**kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"backbone {name!r} cannot be built with {kwargs}: {error}") from None
    backbone.name = name
    backbone.made_with = deepcopy({**kwargs, **({"preprocessing": dict(preprocessing)} if preprocessing else {})})
    if preprocessing:
        from quee.backbones.preprocessing import override

        backbone.input = override(backbone.input, preprocessing)
    if gates is not None:
        backbone.set_gates(gates)
    return backbone.eval()


def check_state_dict(backbone: "SegmentedBackbone", state: dict[str, Any], source: str) -> None:
    """Raises QueeError naming the keys missing, left over or of another shape."""
    expected = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    faults = []
    if missing := sorted(set(expected) - set(given)):
        faults.append(f"missing keys: {_some(missing)}")
    if extra := sorted(set(given) - set(expected)):
        faults.append(f"left-over keys: {_some(extra)}")
    wrong = sorted(key for key in set(given) & set(expected) if given[key] != expected[key])
    if wrong:
        shapes = [f"{key} {given[key]} instead of {expected[key]}" for key in wrong]
        faults.append(f"wrong shapes: {_some(shapes)}")
    if faults:
        raise QueeError(f"{source} does not fit {backbone.name}: {'; '.join(faults)}")


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
