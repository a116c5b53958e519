"""Registry of backbones: `create_backbone(name, **kwargs) -> SegmentedBackbone`.

Importing this package imports no torch: settings are checked against names alone.
"""

from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any

from quee.errors import QueeError, UsageError
from quee.work.registry import Registry

if TYPE_CHECKING:
    from quee.network.base import SegmentedBackbone

BACKBONES: Registry[str] = Registry("backbone")
"""Name to `module:function`, so that only the one asked for is imported."""

BACKBONES.register("vit_digits")("quee.network.architectures.timm_vit:vit_digits")
BACKBONES.register("vit_fashion_mnist")("quee.network.architectures.timm_vit:vit_fashion_mnist")
BACKBONES.register("vit_small_patch14_dinov2.lvd142m")("quee.network.architectures.dinov2:vit_small_patch14")
for _name in ("7", "10", "12", "14", "19", "24", "t_14"):
    BACKBONES.register(f"t2t_vit_{_name}")(f"quee.network.architectures.t2t_vit:t2t_vit_{_name}")

TIMM_PREFIXES = ("vit_", "deit_", "deit3_", "flexivit_")
"""How most names of timm's VisionTransformers begin."""
BY_WEIGHTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Keywords by which timm loads weights; here weights come in by a verb of their own, and nothing is downloaded."""
OTHER_FORM = ("features_only", "feature_cfg", "out_indices", "scriptable", "exportable", "no_jit")
"""Keywords by which timm builds something else than a classifier."""
CHANNELS = (1, 3)
"""How many an image is decoded to."""

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
    from quee.network.architectures.timm_vit import is_timm_vit

    return is_timm_vit(name)


def file_of(name: str) -> str:
    """The file that makes a backbone, from the repository's root; of a name that is none, the file of timm's.

    Imports neither the file nor timm.
    """
    if name in BACKBONES:
        module = BACKBONES[name].partition(":")[0]
    else:
        module = f"{__name__}.{'dinov2' if '_dinov2' in name else 'timm_vit'}"
    return f"{module.replace('.', '/')}.py"


def is_headless(name: str) -> bool:
    """Whether the published network of a name has no classification head, so that the number of classes must be given."""
    if name in BACKBONES:
        return False
    from quee.network.architectures import timm_vit

    return timm_vit.is_headless(name)


def create_backbone(
    name: str, gates: tuple[int, ...] | None = None, preprocessing: dict[str, Any] | None = None, **kwargs: Any
) -> "SegmentedBackbone":
    """Build a backbone with random weights, in evaluation mode.

    `gates` are the numbers of blocks done at each gate (default: four equal segments); `preprocessing` replaces mean,
    std, interpolation or crop_pct of the backbone's own configuration; `kwargs` go to the architecture.
    Raises UsageError for an unknown name, keyword or gate.
    """
    refuse_unknown(name)
    for key in kwargs:
        if key in BY_WEIGHTS:
            how = "weights are added by `quee weights add NAME FILE` and named by backbone.weights"
            raise UsageError(f"backbone {name!r}: {key} is not among its kwargs; {how}")
        if key in OTHER_FORM:
            raise UsageError(
                f"backbone {name!r}: {key} is not among its kwargs; it builds something else than a classifier"
            )
    if name in BACKBONES:
        module, _, function = BACKBONES[name].partition(":")
        build = getattr(import_module(module), function)
    else:
        from functools import partial

        from quee.network.architectures.dinov2 import dinov2
        from quee.network.architectures.timm_vit import timm_vit

        build = partial(dinov2 if "_dinov2" in name else timm_vit, name)
    try:
        backbone: SegmentedBackbone = build(**kwargs)
    except Exception as error:  # architectures of others raise many types; the last line says what they did not like
        reason = (str(error).strip().splitlines() or [""])[-1].strip() or type(error).__name__
        reason = (
            reason
            if isinstance(error, TypeError | ValueError | AssertionError)
            else f"{type(error).__name__}: {reason}"
        )
        given = f" with {kwargs}" if kwargs else ""
        raise UsageError(f"backbone {name!r} cannot be built{given}: {reason}") from None
    if backbone.input.channels not in CHANNELS:
        raise UsageError(
            f"backbone {name!r}: in_chans {backbone.input.channels}; images are decoded to 1 channel (grey) or 3 (RGB)"
        )
    backbone.name = name
    backbone.made_with = deepcopy({**kwargs, **({"preprocessing": dict(preprocessing)} if preprocessing else {})})
    if preprocessing:
        from quee.network.preprocessing import override

        backbone.input = override(backbone.input, preprocessing)
    if gates is not None:
        backbone.set_gates(gates)
    return backbone.eval()


def refuse_unknown(name: str, where: str = "") -> None:
    """Raises UsageError, its message beginning with `where`, unless a name is that of a backbone."""
    if not is_backbone(name):
        from quee.network.architectures.names import unknown_backbone

        raise UsageError(where + unknown_backbone(name))


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
