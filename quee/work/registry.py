"""Registries of named entries; the message for an unknown name lists the valid ones."""

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Generic, TypeVar

from quee.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to entries of one kind, such as backbones or baselines.

    >>> animals: Registry[type] = Registry("animal")
    >>> @animals.register("cat")
    ... class Cat: ...
    >>> animals["cat"] is Cat
    True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """The entry of a name; raises UsageError with the valid names, closest first, for an unknown one."""
        if name in self._entries:
            return self._entries[name]
        raise UsageError(unknown(self.kind, name, list(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def entries(self) -> list[T]:
        """Names in the order of registration."""
        return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


def placed(where: str) -> Any:
    """The object at a place, `module:object`; its module is imported when it is asked for."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


FEW = 12
"""Names that are listed whole."""
NEAREST = 4
"""Names that are listed of more."""


def unknown(kind: str, name: str, valid: list[str], listing: str = "") -> str:
    """The message for an unknown name: kind, value, the closest name, the valid names (see `listed`)."""
    close = get_close_matches(name, valid, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; valid: {listed(name, valid, listing)}"


def listed(name: str, valid: Sequence[str], listing: str = "") -> str:
    """The valid names in one line, for a message about another one.

    Of more than a few only the nearest to `name` are there, the most similar first, with what lists them all: `listing`, such
    as "`quee experiments list`". Without `listing` all are there.
    """
    if not listing or len(valid) <= FEW:
        return ", ".join(valid) or "none"
    nearest = get_close_matches(name, valid, n=NEAREST, cutoff=0.0)
    return f"{', '.join(nearest)} and {len(valid) - len(nearest)} more: {listing} lists them"
