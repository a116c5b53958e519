"""PyTorch's pickles without execution: PyTorch's restricted reader reads the weights; everything else is left out.

Training scripts save more than weights: NumPy numbers, paths, command lines, configurations, own classes. Stand-ins that
have only the name replace these; none is imported or called.
"""

import pickle
import pickletools
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import safe_globals

from quee.errors import DamagedError, QueeError, one_line

PLAIN_MODULES = frozenset(
    ("argparse", "array", "collections", "datetime", "decimal", "enum", "fractions", "ipaddress", "pathlib", "random")
    + ("time", "uuid", "zoneinfo")
)
"""Modules of the standard library whose classes hold values."""
PLAIN_NAMES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_codecs": "encode",
        "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
        "copyreg": "_reconstructor",
        "functools": "partial",
        "re": "_compile",
        "types": "SimpleNamespace",
    }.items()
    for name in names.split()
)
LEGACY_PICKLES = 5
"""Number of pickles in a file from before PyTorch 1.6: magic number, protocol, system, content, keys of the storages."""
FILLED = re.compile(r"Can only (SETITEM|append|extend).*but got <class '([^']+)'>", re.DOTALL)
"""Message of PyTorch's reader for a class that is filled like a dictionary or a list."""
MAX_GLOBALS = 1000
"""Most class names in one file."""


class LeftOut:
    """Stand-in for an object that is not read; `kind` is the name of its class or function."""

    kind = ""
    built = False
    """Whether the object has the parts of a PyTorch module."""

    def __new__(cls, *_: Any, **__: Any) -> "LeftOut":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.built = isinstance(state, dict) and "_parameters" in state


def read_pickled(path: Path) -> tuple[Any, list[str]]:
    """The content of a file of `torch.save`, with stand-ins for all but tensors and plain values; and their sorted names.

    Raises QueeError for a file that is damaged, of another kind, or names a function of the standard library; such a
    file runs code where it is read without these restrictions.
    """
    names = _names(path)
    if len(names) > MAX_GLOBALS:
        raise QueeError(
            f"{path} is not read: its pickle names {len(names):,} classes; at most {MAX_GLOBALS:,} are read"
        )
    if refused := sorted(name for name in names if not _is_harmless(name)):
        raise QueeError(
            f"{path} is not read: it holds {refused[0]}, which is neither a tensor nor a plain value and runs code where "
            "it is loaded; if you trust the file, save its state dict alone: torch.save(model.state_dict(), …)"
        )
    filled: dict[str, type] = {}
    while True:
        met: set[str] = set()
        stand_ins: list[Any] = [(_stand_in(name, filled.get(name), met), name) for name in sorted(names)]
        try:
            with safe_globals(stand_ins), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols and deprecated storages
                return torch.load(path, map_location="cpu", weights_only=True), sorted(met)
        except pickle.UnpicklingError as error:
            found = FILLED.search(str(error))
            if found is None or found[2] not in names or found[2] in filled:
                raise QueeError(f"{path} is not read: {_refused(error)}") from None
            filled[found[2]] = OrderedDict if found[1] == "SETITEM" else list
        except Exception as error:  # damaged files raise many types
            raise DamagedError(f"{path} is not a readable PyTorch file: {one_line(error)}") from None


def _stand_in(name: str, filled: type | None, met: set[str]) -> type:
    """A stand-in class for the object of this name, which is added to `met` when an instance is made.

    If the pickle fills the object, an instance of `filled` is made, because PyTorch's reader fills only plain containers.
    """

    def new(cls: Any, *_: Any, **__: Any) -> Any:
        met.add(name)
        return object.__new__(cls) if filled is None else filled()

    module, _, last = name.rpartition(".")
    return type(last, (LeftOut,), {"__new__": new, "__module__": module, "kind": name})


def _is_harmless(name: str) -> bool:
    module = name.partition(".")[0]
    return module not in sys.stdlib_module_names or module in PLAIN_MODULES or name in PLAIN_NAMES


def _names(path: Path) -> set[str]:
    """Classes and functions that the pickles of a file name; empty where a pickle cannot be followed."""
    found: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                found |= _named(BytesIO(archive.read(member)))
        else:
            with path.open("rb") as file:
                for _ in range(LEGACY_PICKLES):
                    found |= _named(file)
    except Exception:  # PyTorch's reader reports the fault
        pass
    return found


def _named(file: BinaryIO) -> set[str]:
    """Names in one pickle, in Python 3's form."""
    found = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            found.add(f"{module}.{name}")
    return found


def _refused(error: Exception) -> str:
    """The reason in the restricted reader's message, without its long advice."""
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}, which is neither a tensor nor a plain value"
    if "persistent_load" in text:
        return "it holds a whole module with its source; save its state dict alone: torch.save(model.state_dict(), …)"
    if "Unsupported operand" in text:
        return "its pickle is of another protocol than 2; save it anew with torch.save(state, FILE)"
    own = re.search(r"WeightsUnpickler error: (.*?)(?: Check the doc| Please |$)", text)
    return f"it is not a PyTorch file of tensors and plain values ({own[1][:160] if own else one_line(error)})"
