"""Weights files of others as plain state dicts: nothing in a file is executed, and its size is bounded.

Read are PyTorch files (`.pth`, `.pth.tar`, `.pt`, `.bin`) and safetensors, told apart by their first bytes.
"""

import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quee.backbones import check_state_dict
from quee.errors import IntegrityError, QueeError, UsageError

if TYPE_CHECKING:
    from quee.backbones.base import SegmentedBackbone

MAX_BYTES = 8 << 30
"""Of a file and of what it unpacks to."""
WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model", "net")
"""Keys under which training scripts save weights; averaged ones first."""
PREFIXES = ("module.", "_orig_mod.")
"""Put before every key by parallel training and compilation."""


def load_checkpoint(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """The state dict in a weights file, without wrappers and key prefixes, on the CPU.

    Raises IntegrityError when the file is missing and QueeError when it is too large, damaged, holds anything but
    tensors and plain values, or no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise IntegrityError(f"missing file: {path}")
    if (size := path.stat().st_size) > max_bytes:
        raise QueeError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        content = _read_safetensors(path)
    elif start[:2] == b"PK" or start[:1] == b"\x80":  # a zip archive, or the bare pickle of older versions
        content = _read_torch(path, max_bytes)
    else:
        raise QueeError(f"{path} is neither a PyTorch nor a safetensors file; it begins with {start!r}")
    return _weights(content, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise QueeError(f"{path} is not a readable safetensors file: {_line(error)}") from None


def _read_torch(path: Path, max_bytes: int) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max_bytes:
            raise QueeError(f"{path} unpacks to {unpacked:,} bytes; at most {max_bytes:,} are read")
    try:
        # Training scripts save their command line beside the weights: a Namespace is a bag of plain values.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise QueeError(f"{path} is not read: {_refused(error)}") from None
    except Exception as error:
        raise QueeError(f"{path} is not a readable PyTorch file: {_line(error)}") from None


def _refused(error: Exception) -> str:
    """What the restricted reader met, out of its long advice."""
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}, which is neither a tensor nor a plain value"
    return f"it is not a PyTorch file of tensors and plain values ({_line(error)})"


def _line(error: Exception, most: int = 160) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[:most] + "…"


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors within what was read, checked and copied."""
    state = content
    while isinstance(state, dict) and (key := next((w for w in WRAPPERS if isinstance(state.get(w), dict)), None)):
        state = state[key]
    if not isinstance(state, dict):
        raise QueeError(f"{path} holds a {type(state).__name__}, no weights by name")
    while prefix := next((p for p in PREFIXES if state and all(str(key).startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    odd = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if odd or not state:
        found = ", ".join(map(str, list(state)[:5])) or "nothing"
        raise QueeError(f"{path} holds no weights (found: {found}; looked under: {', '.join(WRAPPERS)})")
    return {key: _checked(key, value, path) for key, value in state.items()}


def _checked(key: str, value: Tensor, path: Path) -> Tensor:
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        raise QueeError(f"{path}: {key} is not a plain dense tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise QueeError(f"{path}: {key} claims shape {tuple(value.shape)}, more than the file holds of it")
    value = value.detach().clone(memory_format=torch.contiguous_format)  # views of one storage become independent
    if value.is_floating_point() and not value.isfinite().all():
        raise QueeError(f"{path}: {key} has values that are not finite")
    return value


def fit_state(
    backbone: "SegmentedBackbone", state: dict[str, Tensor], source: str, new_head: bool = False
) -> dict[str, Tensor]:
    """`state` as `backbone.load_state_dict` takes it: the originals' names translated, positions resampled.

    With `new_head` the head keeps the backbone's own weights, for another set of classes. Raises QueeError naming the
    keys that are missing, left over or of another shape.
    """
    adapt = getattr(backbone, "adapt_state", None)
    state = dict(adapt(state) if adapt else state)
    own = backbone.state_dict()
    if new_head:
        heads = [key for key in own if key.startswith(("head.", "head_dist."))]
        state = {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist."))}
        state |= {key: own[key] for key in heads}
    check_state_dict(backbone, state, source)
    return state


def head_layers(head: dict[str, Tensor], dim: int, source: str) -> int:
    """How many last blocks' class tokens a published DINOv2 linear head reads, 1 or 4, by its width.

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
    """A DINOv2 backbone's weights joined with a published linear head, as `DinoV2.load_state_dict` takes them.

    The backbone must be built with `layers=head_layers(…)` and as many classes as the head has rows.
    """
    token = state.get("cls_token")
    if token is None:
        raise UsageError(f"{source} is a head; the weights it is joined with have no cls_token, so are no backbone")
    head_layers(head, token.shape[-1], source)
    return {**state, "head.weight": head["weight"], "head.bias": head["bias"]}
