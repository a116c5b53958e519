"""Registry of architectures: one file in this folder and one line here each. The line lists the backbones.

The module of an architecture has `create(name, **kwargs) -> SegmentedBackbone`, with random weights. If its line has
patterns, it also has `knows(name)`, whether a name that fits a pattern is a backbone's, and `is_headless(name)`. It
imports no other architecture, because an experiment depends on one of these files; shared code is in `quee/network/`.
Importing this package does not import torch: settings are checked against names alone.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from importlib import import_module
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from quee.errors import QueeError, UsageError, shortened

if TYPE_CHECKING:
    from quee.network.base import SegmentedBackbone

_T2T = ("t2t_vit_7", "t2t_vit_10", "t2t_vit_12", "t2t_vit_14", "t2t_vit_19", "t2t_vit_24", "t2t_vit_t_14")
_RESNET_CIFAR = ("resnet20_cifar", "resnet32_cifar", "resnet44_cifar", "resnet56_cifar", "resnet110_cifar")
_TIMM = ("vit_*", "deit_*", "deit3_*", "flexivit_*", "aimv2_*", "eva_*")
_RELATIVE = ("vit_relpos_*", "vit_srelpos_*")
_ROTARY = ("vit_*_rope_*", "vit_*_dinov3*", "vit_*_sapiens2*", "vit_*_lingbot*", "vit_pe_*", "eva_giant_*")
_HYBRID = ("vit_*_r26_*", "vit_*_r50_*", "vit_*_resnet*", "vit_*_r_s16_*", "vit_base_mci_*")
_POOLED = ("vit_*_siglip_[0-9]*", "vit_*_map_*")
"""With attention pooling."""
_UNUSUAL = ("vit_*_18x2_*", "vit_*_xp_*", "vit_[dp]*wee_*", "vit_dlittle_*", "vit_intern300m_*")
"""With parallel blocks, differential attention, or positions that are resampled in every run."""
_OTHER_VITS = (*_RELATIVE, *_ROTARY, *_HYBRID, *_POOLED, *_UNUSUAL)
"""timm's networks whose names are like those of VisionTransformers, with parts that `timm_vit` does not have."""

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "quee.network.architectures.t2t_vit": _T2T,
    "quee.network.architectures.resnet_cifar": _RESNET_CIFAR,
    "quee.network.architectures.dinov2": ("vit_small_patch14_dinov2.lvd142m", "*_dinov2*"),
    "quee.network.architectures.timm_vit": ("vit_digits", "vit_fashion_mnist", *_TIMM),
    "quee.network.architectures.timm_chain": (*_OTHER_VITS, "*"),
}
"""Module to the names of its backbones and patterns of names; of the patterns that fit the longest counts."""

BY_WEIGHTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Keywords by which timm loads weights; here `quee weights add` adds them, and nothing is downloaded."""
OTHER_FORM = ("features_only", "feature_cfg", "out_indices", "scriptable", "exportable", "no_jit")
"""Keywords by which timm builds a network that is not a classifier."""
NUMBERS = (
    "attn_drop_rate", "depth", "depths", "dim", "drop_path_rate", "drop_rate", "embed_dim", "heads", "img_size", "in_chans",
    "init_values", "layers", "mlp_ratio", "num_classes", "num_heads", "patch_size", "pos_drop_rate", "proj_drop_rate",
    "reg_tokens", "window_size",
)  # fmt: skip
"""Keywords that are numbers or lists of numbers in every architecture."""
COUNTS = ("depth", "in_chans", "num_classes", "reg_tokens")
"""Those of them that are whole numbers."""
FLAGS = (
    "class_token",
    "dynamic_img_size",
    "final_norm",
    "no_embed_class",
    "pre_norm",
    "proj_bias",
    "qk_norm",
    "qkv_bias",
)
"""Keywords that are true or false in every architecture; any text would count as true."""
CHANNELS = (1, 3)
"""Numbers of channels that images are decoded to."""

READS_FILES = ("pretrained", "checkpoint", "cache")
"""Prefixes of keywords by which an architecture would read files of its own; bundles refuse them."""


def outside_files(kwargs: Mapping[str, Any]) -> list[str]:
    """The keywords by which an architecture would read files besides its weights."""
    return [key for key in kwargs if key.startswith(READS_FILES)]


def names() -> list[str]:
    """The backbones that are listed by name, sorted."""
    return [name for name in _listed() if "*" not in name]


def _listed() -> list[str]:
    """Names, sorted, then patterns."""
    return sorted((name for listed in ARCHITECTURES.values() for name in listed), key=lambda name: ("*" in name, name))


def module_of(name: str) -> str:
    """The module for a backbone's name, by name or pattern; empty where no line fits."""
    if exact := [module for module, listed in ARCHITECTURES.items() if name in listed]:
        return exact[0]
    patterns = [(pattern, module) for module, listed in ARCHITECTURES.items() for pattern in listed if "*" in pattern]
    fitting = [(len(pattern), module) for pattern, module in patterns if fnmatchcase(name, pattern)]
    return max(fitting, key=lambda fit: fit[0], default=(0, ""))[1]


def file_of(name: str) -> str:
    """Path, from the repository's root, of the file for a backbone's name; imports neither the file nor timm.

    Raises UsageError where there is no such backbone.
    """
    module = module_of(name)
    if not module:
        refuse_unknown(name)
    return f"{module.replace('.', '/')}.py"


def is_backbone(name: str) -> bool:
    module = module_of(name)
    return name in names() or (module != "" and import_module(module).knows(name))


def is_headless(name: str) -> bool:
    """Whether the published network has no classification head, so that the number of classes must be given."""
    module = module_of(name)
    return name not in names() and module != "" and import_module(module).is_headless(name)


def create_backbone(
    name: str,
    gates: tuple[int, ...] | None = None,
    preprocessing: dict[str, Any] | None = None,
    norm_eps: float | dict[str, float] | None = None,
    **kwargs: Any,
) -> "SegmentedBackbone":
    """Build a backbone with random weights, in evaluation mode.

    `gates` are the numbers of blocks done at each gate (default: four equal segments); `preprocessing` replaces fields of
    the backbone's own configuration (`quee.data.preprocessing.KEYS`); `norm_eps` replaces the ε of every LayerNorm, or by
    name of a module of those within it; `kwargs` go to the architecture.
    Raises UsageError for an unknown name, keyword or gate, and for a value that the keyword cannot have.
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
        if fault := _fault(key, kwargs[key]):
            raise UsageError(f"backbone {name!r} cannot be built with {key}={_SHORT.repr(kwargs[key])}: {fault}")
    try:
        backbone: SegmentedBackbone = import_module(module_of(name)).create(name, **kwargs)
    except Exception as error:  # architectures raise many types; the last line of the message gives the reason
        reason = (str(error).strip().splitlines() or [""])[-1].strip() or type(error).__name__
        reason = (
            reason
            if isinstance(error, TypeError | ValueError | AssertionError)
            else f"{type(error).__name__}: {reason}"
        )
        given = f" with {_SHORT.repr(kwargs)}" if kwargs else ""
        raise UsageError(f"backbone {name!r} cannot be built{given}: {shortened(reason)}") from None
    if backbone.input.channels not in CHANNELS:
        raise UsageError(
            f"backbone {name!r}: in_chans {backbone.input.channels}; images are decoded to 1 channel (grey) or 3 (RGB)"
        )
    backbone.name = name
    more = {"preprocessing": preprocessing, "norm_eps": norm_eps}
    backbone.made_with = deepcopy({**kwargs, **{key: value for key, value in more.items() if value}})
    if norm_eps is not None:
        _set_norm_eps(backbone, norm_eps)
    if preprocessing:
        from quee.data.preprocessing import override

        backbone.input = override(backbone.input, preprocessing)
    if gates is not None:
        backbone.set_gates(gates)
    return backbone.eval()


_SHORT = Repr()
"""How keywords are shown in messages."""
_SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 12, 60, 60


def _fault(key: str, value: Any) -> str:
    """Why a keyword cannot have a value, by the kind of the value alone; empty where it may."""
    if key in FLAGS and isinstance(value, str):
        return "not true or false"
    parts = value if isinstance(value, list | tuple) else [value]
    if key in NUMBERS and any(isinstance(part, str | bool | Mapping) for part in parts):
        return "not a number" if parts != value else "not a list of numbers"
    return "not a whole number" if key in COUNTS and isinstance(value, float) else ""


def _set_norm_eps(backbone: "SegmentedBackbone", eps: Any) -> None:
    """Set the ε of LayerNorms; raises UsageError for a value that is none, or a name without a LayerNorm."""
    from torch.nn import LayerNorm

    for prefix, value in (eps if isinstance(eps, dict) else {"": eps}).items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
            raise UsageError(f"backbone {backbone.name!r}: norm_eps must be above 0 and below 1; got {value!r}")
        norms = [module for name, module in backbone.named_modules() if f"{name}.".startswith(prefix and f"{prefix}.")]
        found = [module for module in norms if isinstance(module, LayerNorm)]
        if not found:
            raise UsageError(f"backbone {backbone.name!r}: norm_eps: no LayerNorm{prefix and f' in {prefix!r}'}")
        for module in found:
            module.eps = float(value)


def refuse_unknown(name: str, where: str = "") -> None:
    """Raises UsageError, its message beginning with `where`, unless a name is that of a backbone."""
    if not is_backbone(name):
        from quee.network.names import unknown_backbone

        raise UsageError(where + unknown_backbone(name, _listed()))


def check_state_dict(backbone: "SegmentedBackbone", state: dict[str, Any], source: str) -> None:
    """Raises QueeError naming keys that are missing, unexpected or of another shape."""
    expected = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    faults = []
    if missing := sorted(set(expected) - set(given)):
        faults.append(f"missing keys: {some(missing)}")
    if extra := sorted(set(given) - set(expected)):
        faults.append(f"left-over keys: {some(extra)}")
    wrong = sorted(key for key in set(given) & set(expected) if given[key] != expected[key])
    if wrong:
        shapes = [f"{key} {given[key]} instead of {expected[key]}" for key in wrong]
        faults.append(f"wrong shapes: {some(shapes)}")
    if faults:
        raise QueeError(f"{source} does not fit {backbone.name}: {'; '.join(faults)}")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names of a list, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
