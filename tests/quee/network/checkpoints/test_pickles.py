"""Other objects in a pickle of weights are left out and reported, never imported or called."""

import argparse
import builtins
import collections
import dataclasses
import datetime
import decimal
import enum
import os
import pathlib
import re
import subprocess
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quee.errors import QueeError
from quee.network.checkpoints.reading import read_checkpoint

STATE = {"blocks.0.norm1.weight": torch.ones(3)}


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    rate: float = 0.1


class Attributes(dict[str, Any]):
    """A dictionary with attributes, like the configurations of many projects."""


class Items(list[Any]):
    pass


BESIDE: dict[str, Any] = {
    "numpy scalar": np.float64(81.2),
    "numpy integer": np.int64(3),
    "numpy array": np.arange(3),
    "numpy dtype": np.dtype("f4"),
    "numpy generator": np.random.default_rng(0),
    "namespace": argparse.Namespace(out=Path("/x"), nested=argparse.Namespace(a=np.float32(1))),
    "path": pathlib.PurePosixPath("/x"),
    "date": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "span": datetime.timedelta(1),
    "decimal": decimal.Decimal("0.1"),
    "enum": Colour.RED,
    "dataclass": Settings(),
    "dictionary": Attributes(a=1, b=Attributes(c=2)),
    "list": Items([1, 2]),
    "default dictionary": collections.defaultdict(list, {"a": [1]}),
    "counter": collections.Counter("abc"),
    "queue": collections.deque([1, 2]),
    "sets": {1, 2} | frozenset((3,)),
    "frozen": frozenset((3,)),
    "bytes": b"abc",
    "complex": 1j,
    "range": range(3),
    "pattern": re.compile("x"),
    "simple": types.SimpleNamespace(a=1),
    "identity": uuid.UUID(int=1),
    "version": torch.__version__,
    "module": torch.nn.Linear(2, 2),
}


EITHER = [(what, legacy) for what in BESIDE for legacy in (False, True) if not (legacy and what == "module")]
"""The old form keeps a module's source, which is refused."""


@pytest.mark.parametrize(("what", "legacy"), EITHER)
def test_what_stands_beside_the_weights_does_not_make_them_unreadable(what: str, legacy: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "beside": BESIDE[what]}, tmp_path / "w", _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / "w")
    assert torch.equal(found.state["blocks.0.norm1.weight"], torch.ones(3))
    kind = type(BESIDE[what])
    if kind.__module__ == __name__ or kind.__name__ in ("Namespace", "datetime", "deque", "defaultdict", "UUID"):
        assert f"{kind.__module__}.{kind.__name__}" in found.said


class Runs:
    def __init__(self, function: Any, *args: Any) -> None:
        self.made = function, args

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "function",
    [
        os.system,
        os.mkdir,
        subprocess.getoutput,
        builtins.eval,
        builtins.exec,
        builtins.getattr,
        builtins.__import__,
        sys.exit,
    ],
    ids=lambda function: f"{function.__module__}.{function.__name__}",
)
def test_a_file_that_would_run_code_is_refused_by_name(function: Any, legacy: bool, tmp_path: Path) -> None:
    made = tmp_path / "made"
    malice = Runs(function, f"mkdir {made}" if function in (os.system, subprocess.getoutput) else str(made))
    torch.save({"state_dict": STATE, "x": malice}, tmp_path / "w", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        QueeError, match=rf"it holds {function.__module__}\.{function.__name__}, which is neither"
    ) as raised:
        read_checkpoint(tmp_path / "w")
    assert "\n" not in str(raised.value)
    assert not made.exists()


def test_nothing_of_another_package_is_imported_or_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "wicked_package.py"
    package.write_text(f"open({str(tmp_path / 'made')!r}, 'w')\ndef act(*a): open({str(tmp_path / 'made')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import wicked_package

    torch.save({"state_dict": STATE, "x": Runs(wicked_package.act, 1)}, tmp_path / "w")
    (tmp_path / "made").unlink()
    del sys.modules["wicked_package"]
    found = read_checkpoint(tmp_path / "w")
    assert "left out, unread: wicked_package.act" in found.said
    assert "wicked_package" not in sys.modules
    assert not (tmp_path / "made").exists()


def test_another_protocol_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "w", pickle_protocol=4)
    with pytest.raises(QueeError, match=r"of another protocol than 2; save it anew with torch.save"):
        read_checkpoint(tmp_path / "w")
