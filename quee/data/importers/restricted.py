"""Pickles of the CIFAR archives: dictionaries, lists, strings, numbers and arrays of bytes, and nothing else.

Not even numpy's own constructors are called: stand-ins record what the pickle says of an array.
"""

import io
import pickle
from typing import Any

import numpy as np

from quee.errors import QueeError


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
    """The dictionary in a CIFAR pickle; its arrays are uint8. Raises QueeError when anything else is in it."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise many types
        raise QueeError(f"{source}: not read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise QueeError(f"{source}: holds a {type(value).__name__}; expected a dictionary")
    return {_text(key): item.value if isinstance(item, _Array) else item for key, item in value.items()}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in value)
