"""What a call of `quee start` has added so far, so that the same call goes on after it was interrupted or refused."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quee.errors import IntegrityError, QueeError

FOLDER = Path(".quee") / "start"


@dataclass
class Begun:
    """A call by what it was given, and what it has added."""

    name: str
    asked: Mapping[str, Any]
    added: dict[str, list[str]] = field(default_factory=dict)
    """Path of what was added and is tracked, and what adding it said."""
    before: bool = False
    """Whether the same call has begun before."""

    @classmethod
    def of(cls, name: str, asked: Mapping[str, Any]) -> "Begun":
        """The call, with what the same one added before it ended early."""
        from quee.work.io import read_json

        try:
            kept = read_json(FOLDER / f"{name}.json")
        except IntegrityError:
            kept = {}
        if kept.get("asked") != asked:
            return cls(name, asked)
        return cls(name, asked, {path: said for path, said in kept["added"].items() if Path(path).exists()}, True)

    def add(self, path: Path, said: list[str]) -> None:
        self.added[str(path)] = said
        self.keep()

    def keep(self) -> None:
        from quee.work.io import write_json

        FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(FOLDER / f"{self.name}.json", {"asked": self.asked, "added": self.added})

    def end(self) -> None:
        (FOLDER / f"{self.name}.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def saying(self, again: Callable[[], list[str]]) -> Iterator[None]:
        """Say what stays here, and how to go on, where an error or a signal ends the call early.

        `again` gives the arguments by which another call uses what was added.
        """
        try:
            yield
        except QueeError as error:
            if self.added:
                more = f"go on with `quee start {shlex.join(again())} …`"
                error.args = (f"{error}\n{self._staying()}: {more}",)
            raise
        except (KeyboardInterrupt, SystemExit):
            print(f"interrupted: {self._left()}", file=sys.stderr, flush=True)
            raise

    def _staying(self) -> str:
        return f"{' and '.join(self.added)} {'stays' if len(self.added) == 1 else 'stay'} here"

    def _left(self) -> str:
        if not self.added:
            return "nothing was added yet; the same command begins again"
        files = [path for name in self.added for path in (Path(name), _pointer(Path(name))) if path.exists()]
        removal = shlex.join(["rm", "-r", *map(str, files)])
        return f"{self._staying()}; the same command goes on, and `{removal}` removes them"


def _pointer(path: Path) -> Path:
    """DVC's file of something that was added."""
    return path.with_name(f"{path.stem if path.suffix == '.safetensors' else path.name}.dvc")
