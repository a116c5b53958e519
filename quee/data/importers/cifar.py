"""CIFAR-10 and CIFAR-100, the python and the binary archives, packed or unpacked.

The pickles of the python archives may hold dictionaries, lists, strings, numbers and arrays of bytes, and nothing else.
NumPy's constructors are not called either: stand-ins record the pickle's description of an array.
"""

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quee.data.importers.archive import read_members
from quee.data.importers.arrays import array_shard
from quee.data.importers.base import Importer, Plan, Source
from quee.errors import DamagedError, QueeError, one_line

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    """Key of the labels in a python batch."""
    names: str
    """Key of the class names in the python meta file."""
    label_bytes: int
    """Bytes before the pixels of a binary record; the label used is the last of them."""

    @property
    def files(self) -> set[str]:
        return {*self.train, *self.test, self.meta}


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_PYTHON = {
    "cifar10": _Layout(_BATCHES, ("test_batch",), "batches.meta", "labels", "label_names", 0),
    "cifar100": _Layout(("train",), ("test",), "meta", "fine_labels", "fine_label_names", 0),
}
_BINARY = {
    "cifar10": _Layout(tuple(f"{b}.bin" for b in _BATCHES), ("test_batch.bin",), "batches.meta.txt", "", "", 1),
    "cifar100": _Layout(("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", 2),
}


def plan(given: Source, _: object) -> Plan:
    name, source = given.name, given.path
    python, binary = _PYTHON[name], _BINARY[name]
    plan = Plan()
    found = read_members(source, python.files | binary.files, plan.report)
    layout = binary if any(file in found for file in binary.train) else python
    if missing := sorted(layout.files - set(found)):
        raise QueeError(f"{source} has no {missing[0]}; is it an archive of {name}?")
    read = _read_binary if layout is binary else _read_python
    classes = given.dataset.classes or _classes(layout, found, source)
    for split, files in (("train", layout.train), ("test", layout.test)):
        parts = [read(layout, found[file], f"{source}: {file}") for file in files]
        images, labels = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
        own = [part[2] for part in parts]
        names = [name for part in own for name in part] if all(own) else None
        plan.shards.append(array_shard(split, images, labels, classes, f"{source}, {split}", names))
    return plan


IMPORTER = Importer(lambda source: source.name in _PYTHON, plan)


def _classes(layout: _Layout, found: Mapping[str, bytes], source: Path) -> tuple[str, ...]:
    if layout.label_bytes:
        return tuple(found[layout.meta].decode("ascii", "replace").split())
    meta = load_batch(found[layout.meta], f"{source}: {layout.meta}")
    return tuple(map(_text, _entry(meta, layout.names, list, f"{source}: {layout.meta}")))


def _read_python(layout: _Layout, content: bytes, source: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images, labels and original names of a batch; no names where the batch has none for each image."""
    batch = load_batch(content, source)
    pixels = _entry(batch, "data", np.ndarray, source)
    labels = _entry(batch, layout.labels, list, source)
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise QueeError(f"{source}: images of shape {pixels.shape}; expected (n, {PIXELS})")
    if not all(type(label) is int for label in labels):
        raise QueeError(f"{source}: labels that are not integers")
    if len(labels) != len(pixels):
        raise QueeError(f"{source}: {len(pixels)} images and {len(labels)} labels")
    found = batch.get("filenames")
    names = list(map(_text, found)) if isinstance(found, list) and len(found) == len(pixels) else []
    return _images(pixels), np.array(labels, np.int64), names


def _entry(batch: dict[str, Any], key: str, kind: type, source: str) -> Any:
    if not isinstance(batch.get(key), kind):
        raise QueeError(f"{source}: no {kind.__name__} under {key!r}; it has {', '.join(sorted(batch))}")
    return batch[key]


def _read_binary(layout: _Layout, content: bytes, source: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    record = layout.label_bytes + PIXELS
    if not content or len(content) % record:
        raise DamagedError(f"{source}: {len(content):,} bytes, not whole records of {record}; truncated?")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _images(rows[:, layout.label_bytes :]), rows[:, layout.label_bytes - 1].astype(np.int64), []


def _images(pixels: np.ndarray) -> np.ndarray:
    """Rows of red, green, blue planes (n, 3072) to (n, 32, 32, 3)."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _Dtype:
    def __init__(self, kind: Any, *_: Any) -> None:
        if kind not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"array of type {kind!r}; expected bytes")

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("array of another type than bytes")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _ndarray(*_: Any) -> None:
    raise pickle.UnpicklingError("array made in an unknown way")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _ndarray:
        raise pickle.UnpicklingError("array of an unknown kind")
    return _Array()


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not in the format")
        return _ALLOWED[module, name]

    def persistent_load(self, _: Any) -> Any:
        raise pickle.UnpicklingError("it holds a persistent id, which is not in the format")


def load_batch(content: bytes, source: str) -> dict[str, Any]:
    """The dictionary in a CIFAR pickle; its arrays are uint8. Raises QueeError for any other content."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise many types
        raise DamagedError(f"{source}: not read: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise DamagedError(f"{source}: holds a {type(value).__name__}; expected a dictionary")
    return {_text(key): item.value if isinstance(item, _Array) else item for key, item in value.items()}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
