"""Registries of named entries; the message for an unknown name lists the valid ones."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

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


def unknown(kind: str, name: str, valid: list[str]) -> str:
    """The message for an unknown name: kind, value, the closest name, all valid names."""
    close = get_close_matches(name, valid, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; valid: {', '.join(valid) or 'none'}"
