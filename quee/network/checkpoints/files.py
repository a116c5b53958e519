"""Reading of weights files, whose first bytes tell the kind; nothing in a file is executed.

The kinds are safetensors, files of `torch.save`, arrays of numpy (`.npz`), and the index of a checkpoint in several
files. A file of another kind is refused with its kind.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quee.errors import DamagedError, IntegrityError, QueeError, one_line
from quee.network.checkpoints.pickles import read_pickled

Content = tuple[Any, list[str]]
"""The content of a file, and the names of the objects that were left out."""
KINDS = "PyTorch files (.pth, .pt, .bin, .ckpt, .pth.tar), safetensors, .npz, and the index of a checkpoint in several files"
FOREIGN = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
    b"<": "a page of HTML or XML, not a checkpoint: the download gave something else",
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow)",
    b"GGUF": "a GGUF file of llama.cpp",
    b"\x93NUMPY": "one array of numpy; several by name are an .npz",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x08": "an ONNX graph, whose weights have no names of layers",
}
"""First bytes of files that are not read, with their kind."""


def read_file(path: Path, max_bytes: int) -> Content:
    """The content of a weights file, on the CPU.

    Raises IntegrityError when the file is missing, damaged or of another format, QueeError when it is too large or not read here.
    """
    if path.is_symlink() and not path.exists():
        raise IntegrityError(f"{path} is a link to a file that is not there: {path.readlink()}")
    if path.is_dir():
        raise QueeError(f"{path} is a folder, where a file is wanted")
    if not path.is_file():
        raise IntegrityError(f"missing file: {path}")
    size = path.stat().st_size
    _refuse_large(path, size, max_bytes)
    if not size:
        raise DamagedError(f"{path} is empty: copying or downloading it was cut off")
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return _safetensors(path), []
    if zipfile.is_zipfile(path):
        return _archive(path, max_bytes)
    if start[:2] == b"PK":
        raise DamagedError(f"{path} is a zip archive without its end: the file is cut off or damaged")
    if start[:1] == b"\x80":
        return read_pickled(path)
    if start.lstrip()[:1] == b"{":
        return _index(path, max_bytes)
    if start[257:262] == b"ustar":
        raise QueeError(f"{path} is a tar archive; unpack it first. Read are {KINDS}")
    if what := next((what for begin, what in FOREIGN.items() if start.lstrip().startswith(begin)), None):
        raise DamagedError(f"{path} is {what}. Read are {KINDS}")
    raise DamagedError(
        f"{path} is neither a PyTorch nor a safetensors file; it begins with {start[:9]!r}. Read are {KINDS}"
    )


def _refuse_large(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise QueeError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{path} is not a readable safetensors file: {one_line(error)}") from None


def _archive(path: Path, max_bytes: int) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise DamagedError(f"{path} is a damaged zip archive: {one_line(error)}") from None
    unpacked = sum(member.file_size for member in members)
    if unpacked > max_bytes:
        raise QueeError(f"{path} unpacks to {unpacked:,} bytes; at most {max_bytes:,} are read")
    names = [member.filename for member in members]
    if names and all(name.endswith(".npy") for name in names):
        return _arrays(path), []
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        how = f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        raise QueeError(f"{path} is a TorchScript archive, a program; save its weights alone: {how}")
    if "data.pkl" in last:
        return read_pickled(path)
    if "model.weights.h5" in last:
        raise QueeError(f"{path} is a model of Keras. Read are {KINDS}")
    inside = ", ".join(names[:3]) or "nothing"
    raise QueeError(f"{path} is a zip archive of other files ({inside}); unpack it first. Read are {KINDS}")


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _tensor(arrays[name]) for name in arrays.files}
    except Exception as error:  # damaged archives raise many types
        raise QueeError(f"{path} is not a readable .npz of arrays: {one_line(error)}") from None


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # numpy has no bfloat16: JAX writes two raw bytes
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def parts_of(index: Path) -> dict[str, str]:
    """The file of every weight by an index; raises QueeError where it is none."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        return {str(key): str(Path(name)) for key, name in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise QueeError(
            f"{index} is JSON, but not the index of a checkpoint (no weight_map). Read are {KINDS}"
        ) from None


def _index(path: Path, max_bytes: int) -> Content:
    """A checkpoint in several files: `model.safetensors.index.json` or `pytorch_model.bin.index.json`."""
    weight_map = parts_of(path)
    files = sorted(set(weight_map.values()))
    if not all(Path(name).name == name for name in files):
        raise QueeError(f"{path} names files that are not beside it")
    state: dict[str, Tensor] = {}
    left_out: list[str] = []
    total = 0
    for name in files:
        part = path.with_name(name)
        if not part.is_file():
            raise IntegrityError(f"missing file: {part}, which {path.name} names; it has {len(files)} parts")
        total += part.stat().st_size
        _refuse_large(path, total, max_bytes)
        content, out = read_file(part, max_bytes)
        if not isinstance(content, dict):
            raise QueeError(f"{part} holds a {type(content).__name__}, no weights by name")
        if twice := sorted(set(content) & set(state)):
            raise QueeError(f"{part}: {twice[0]} is in another part of {path.name}, too")
        state |= content
        left_out += out
    if more := sorted(part.name for part in path.parent.glob(_parts(path)) if part.name not in files):
        raise QueeError(
            f"{path} does not name {more[0]}, a part beside it: remove the part that is not of this checkpoint"
        )
    if more := sorted(set(state) - set(weight_map)):
        raise QueeError(f"{path} does not name {more[0]}, which is in one of its parts")
    if missing := sorted(set(weight_map) - set(state)):
        raise QueeError(f"{path}: {missing[0]} is in none of its {len(files)} parts")
    return state, sorted(set(left_out))


def _parts(index: Path) -> str:
    """Pattern of the names of an index's parts: `model-*-of-*.safetensors`."""
    stem, _, end = index.name.removesuffix(".index.json").rpartition(".")
    return f"{stem}-*-of-*.{end}"
