"""Weights of other projects, from a file or a folder, as plain state dicts under the backbones' names.

Nothing in a file is executed, and its size is limited. `files` reads the kinds of files, `folders` and `described` what a
folder holds, and `layouts` translates the names of weights. This module removes wrappers of training scripts and prefixes,
and converts number formats.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quee.errors import QueeError, UsageError
from quee.network.architectures import check_state_dict, some
from quee.network.checkpoints.described import CONFIG, PROCESSOR, Described, describe, plain_values
from quee.network.checkpoints.files import read_file
from quee.network.checkpoints.folders import weights_in
from quee.network.checkpoints.layout import Named
from quee.network.checkpoints.layouts import AVERAGED, LAYOUTS, Recognised, readable, recognise
from quee.network.checkpoints.pickles import LeftOut

if TYPE_CHECKING:
    from quee.network.base import SegmentedBackbone

MAX_BYTES = 8 << 30
"""Largest size of a file, packed and unpacked."""
WRAPPERS = (
    *("state_dict_ema", "ema_state_dict", "state_dict", "model_state_dict", "model_ema", "ema", "model_state"),
    *("model", "net", "network", "module", "weights", "params", "backbone", "encoder"),
)
"""Keys under which training scripts save weights, in the order they are taken; averaged ones first."""
BESIDE = ("optim", "scheduler", "scaler", "callback", "loops", "rng", "hyper", "config", "args", "history")
"""Words in the keys of other objects that training scripts save."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes that parallel training, compilation and wrapping modules put before every key; removed where all keys have one."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights read from a file."""

    state: dict[str, Tensor]
    """Weights under the backbone's names if the layout is known, else under the file's; floating point is float32."""
    layout: str
    """Name of the file's layout; empty where unknown."""
    facts: tuple[str, ...]
    """The steps of reading (unwrapped, removed, converted, left out), one phrase each."""
    backbone: str = ""
    """Name of the backbone; empty where neither a configuration nor names and shapes tell."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the backbone, with `preprocessing` where the folder says it, without the number of classes."""
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of the outputs; None where nothing says them."""
    outputs: int | None = None
    """Number of outputs by the configuration; None where nothing says it."""
    configured: bool = False
    """Whether a configuration says the backbone, and not shapes alone."""
    half: bool = False
    """Whether the file has float16, so that its weights can be kept in half the bytes."""

    @property
    def said(self) -> str:
        """Layout and facts in one line."""
        return "; ".join((self.layout or "names as in the file, of no known layout", *self.facts))


def read_checkpoint(path: Path, max_bytes: int = MAX_BYTES) -> Checkpoint:
    """The weights in a file or a folder, without wrappers and key prefixes, on the CPU, in float32, under backbones' names.

    Of a folder, its configuration says the backbone; of a file, names and shapes do, where they can. Raises IntegrityError
    for a missing file. Raises QueeError for a file that is too large or damaged, or holds no plain weights, several
    networks, or a network that is not a backbone here, and for a configuration that contradicts the weights.
    """
    path = Path(path)
    if path.is_dir():
        described = describe(path)
        file, of_folder = weights_in(path)
    else:
        described, file, of_folder = Described(), path, ()
        if (path.parent / CONFIG).is_file() or (path.parent / PROCESSOR).is_file():
            of_folder = (f"{CONFIG} beside it was not read: give the folder for that",)
    content, left_out = read_file(file, max_bytes)
    state, unwrapped = _unwrapped(content, file)
    facts = [*described.facts, *of_folder, *unwrapped]
    if left_out:
        facts.append(f"left out, unread: {some(left_out)}")
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        facts.append(f"without the prefix {prefix!r}")
    found = recognise(state, str(path))
    if found.prefix:
        facts.append(f"without the prefix {found.prefix!r}")
    if found.left_out:
        facts.append(f"left out, of no classifier: {some(found.left_out)}")
    formats = sorted({str(v.dtype).removeprefix("torch.") for v in found.state.values() if _is_other_float(v)})
    if formats:
        facts.append(f"{', '.join(formats)} as float32")
    if found.found and found.found.note:
        facts.append(found.found.note)
    checked = {key: plain(key, value, path) for key, value in found.state.items()}
    named = _named(path, checked, found, described)
    if described.classes is None and described.outputs:
        facts.append("its configuration has no names of classes")
    return Checkpoint(
        checked if named is None or named.state is None else named.state,
        found.layout,
        tuple(facts),
        *(("", {}) if named is None else (named.name, named.kwargs)),
        described.classes,
        described.outputs,
        bool(described.config),
        "float16" in formats,
    )


def _named(path: Path, state: dict[str, Tensor], found: Recognised, described: Described) -> Named | None:
    """The backbone of weights under backbones' names, with its preprocessing where a folder says it."""
    with plain_values(f"{path} ({found.layout or 'of no known layout'})"):
        named = _by_layout(state, found, described)
    prepared = described.prepared
    if named is None or prepared is None:
        return named
    height, width = prepared.size
    size = {"img_size": height if height == width else [height, width]}
    return Named(named.name, {**size, **named.kwargs, "preprocessing": prepared.preprocessing}, named.state)


def _by_layout(state: dict[str, Tensor], found: Recognised, described: Described) -> Named | None:
    """As the configuration says, or else names and shapes; raises QueeError where these contradict each other."""
    layout = found.found
    if described.timm_name:
        own = described.config.get("model_args") or {}
        return Named(described.timm_name, {key: value for key, value in own.items() if key != "num_classes"})
    if kind := described.config.get("model_type"):
        known = sorted(kind for layout in LAYOUTS for kind in layout.model_types)
        if kind not in known:
            raise QueeError(f"{CONFIG}: model_type {kind!r} is not read; read are: {', '.join(known)}")
        if layout is None or kind not in layout.model_types or layout.configured is None:
            raise QueeError(f"{CONFIG} says model_type {kind!r}, which the names of the weights contradict")
        size = None if described.prepared is None else described.prepared.size
        return layout.configured(described.config, state, size)
    return layout.named(state) if layout is not None and layout.named is not None else None


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a file's content, and where it was found.

    Raises QueeError where there is none, or several without a known choice.
    """
    state, facts, within = content, [], ""
    while isinstance(state, dict) and (nested := _nested(state)):
        key = next((wrapper for wrapper in WRAPPERS if wrapper in nested), nested[0])
        averaged = [name for name in nested if AVERAGED.search(name.lower())]
        if averaged and key not in averaged:
            key = averaged[0]
        if key not in WRAPPERS and len(averaged or nested) > 1:
            raise QueeError(
                f"{path} holds several sets of weights: {', '.join(nested)}; save one of them alone: "
                f"torch.save(torch.load({path.name!r}){within}[{key!r}], 'weights.pth')"
            )
        others = [name for name in nested if name != key]
        facts.append(f"of {key!r}" + (f", not of {some(others)}" if others else ""))
        state, within = state[key], f"{within}[{key!r}]"
    if isinstance(state, LeftOut):
        raise QueeError(_whole_module(state, path))
    if not isinstance(state, dict):
        raise QueeError(f"{path} holds a {type(state).__name__}, no weights by name")
    weights = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not weights:
        if modules := [value for value in state.values() if isinstance(value, LeftOut) and _is_network(value)]:
            raise QueeError(_whole_module(modules[0], path))
        if "param_groups" in state or any("optimizer" in str(key) for key in state):
            raise QueeError(
                f"{path} holds no weights: it is the state of an optimizer; save model.state_dict() instead"
            )
        found = some(list(map(str, state))) or "nothing"
        raise QueeError(f"{path} holds no weights (found: {found}; looked under: {', '.join(WRAPPERS)})")
    if odd := [str(key) for key, value in state.items() if not isinstance(value, Tensor)]:
        if arrays := [key for key in odd if isinstance(state.get(key), LeftOut) and "." in key]:
            kind = state[arrays[0]].kind
            raise QueeError(f"{path}: {arrays[0]} is a {kind}, no tensor: save torch.save of a state dict of tensors")
        facts.append(f"left out, no weights: {some(odd)}")
    return weights, facts


def _nested(state: Mapping[Any, Any]) -> list[str]:
    """Keys of dictionaries that hold weights, directly or in a dictionary of theirs."""
    return [
        key
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, dict) and _has_weights(value) and not _is_beside(key)
    ]


def _has_weights(state: Mapping[Any, Any], depth: int = 3) -> bool:
    if "param_groups" in state:
        return False
    if any(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        return True
    inner = [(key, value) for key, value in state.items() if isinstance(value, dict)]
    return depth > 0 and any(not _is_beside(str(key)) and _has_weights(value, depth - 1) for key, value in inner)


def _is_beside(key: str) -> bool:
    return any(part in key.lower() for part in BESIDE)


def _is_network(value: LeftOut) -> bool:
    return value.kind.startswith(("torch.nn.", "torchvision.models", "timm.", "transformers.models")) or value.built


def _whole_module(module: LeftOut, path: Path) -> str:
    return (
        f"{path} holds a whole pickled module ({module.kind}), which only its own code can load; if you trust the file, "
        f"save its weights alone: torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'weights.pth'). "
        f"Read are state dicts of: {readable(module.kind)}"
    )


def _is_other_float(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype != torch.float32


def plain(key: str, value: Any, source: str | Path) -> Tensor:
    """A copy of a weight, floating point as float32; raises QueeError unless it is a dense tensor of finite numbers."""
    if (
        not isinstance(value, Tensor)
        or value.layout is not torch.strided
        or value.is_quantized
        or value.device.type != "cpu"
        or value.is_complex()
    ):
        raise QueeError(f"{source}: {key} is not a plain dense tensor; weights that are quantized already are not read")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise QueeError(f"{source}: {key} claims shape {tuple(value.shape)}, more than the file holds of it")
    value = value.detach().clone(memory_format=torch.contiguous_format)  # views of one storage become independent
    if not value.is_floating_point():
        return value
    value = value.float()
    if not value.isfinite().all():
        raise QueeError(f"{source}: {key} has values that are not finite")
    return value


def fit_state(
    backbone: "SegmentedBackbone", state: dict[str, Tensor], source: str, new_head: bool = False
) -> dict[str, Tensor]:
    """`state` in the form of `backbone.load_state_dict`: original names translated, positions resampled.

    With `new_head` the backbone's own head is kept, for another set of classes. Raises QueeError naming keys that are
    missing, unexpected or of another shape.
    """
    adapt = getattr(backbone, "adapt_state", None)
    try:
        state = dict(adapt(state) if adapt else state)
    except QueeError as error:
        raise QueeError(f"{source} does not fit {backbone.name}: {error}") from None
    own = backbone.state_dict()
    if new_head:
        layers = (f"{backbone.logits_layer}.", "head_dist.")
        heads = [key for key in own if key.startswith(layers)]
        state = {key: value for key, value in state.items() if not key.startswith(layers)}
        state |= {key: own[key] for key in heads}
    check_state_dict(backbone, state, source)
    for key, value in state.items():
        if own[key].is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise QueeError(f"{source}: {key} is of {kind}: weights that are quantized already are not read")
    return state


def head_layers(head: dict[str, Tensor], dim: int, source: str) -> int:
    """Number of last blocks, 1 or 4, whose class tokens a published DINOv2 linear head reads; its width tells.

    Raises QueeError unless `head` is one linear layer for a backbone of width `dim`.
    """
    weight, bias = head.get("weight"), head.get("bias")
    if set(head) != {"weight", "bias"} or weight is None or bias is None or weight.dim() != 2:
        raise QueeError(f"{source} is not a linear head: expected the keys weight, bias; found {', '.join(head)[:160]}")
    layers = weight.shape[1] // dim - 1
    if weight.shape[1] % dim or layers not in (1, 4) or bias.shape != weight.shape[:1]:
        widths = f"{2 * dim} (1 layer) or {5 * dim} (4 layers)"
        raise QueeError(f"{source}: a head of shape {tuple(weight.shape)} does not fit; its width must be {widths}")
    return layers


def with_head(state: dict[str, Tensor], head: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A DINOv2 backbone's weights joined with a published linear head, in the form of `DinoV2.load_state_dict`.

    The backbone must be built with `layers=head_layers(…)` and as many classes as the head has rows.
    """
    token = state.get("cls_token")
    if token is None:
        raise UsageError(f"{source} is a head; the weights it is joined with have no cls_token, so are no backbone")
    head_layers(head, token.shape[-1], source)
    return {**state, "head.weight": head["weight"], "head.bias": head["bias"]}
