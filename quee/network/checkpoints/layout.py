"""A checkpoint layout: a way to name weights, the translation to timm's names, and what it tells of its backbone."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quee.errors import QueeError

State = dict[str, Tensor]
Config = Mapping[str, Any]
"""The content of a `config.json`."""
Size = tuple[int, int]
"""Height and width of the images that a folder's preprocessing makes."""


@dataclass(frozen=True)
class Named:
    """The backbone of weights under its names."""

    name: str
    kwargs: dict[str, Any]
    """Keywords beside the number of classes and the preprocessing; those that the name implies are left out."""
    state: State | None = None
    """The weights, if they depend on what the configuration says; None: as they are."""


@dataclass(frozen=True)
class Layout:
    """One way to name weights."""

    name: str
    anchor: str
    """Regular expression for the end of a key that only this layout has; the beginning of the key is a prefix."""
    convert: Callable[[State], State] | None = None
    """Translates its names to the backbone's, mostly timm's; None where no backbone here has such parts."""
    advice: str = ""
    """Advice for a layout that is not read."""
    also: str = ""
    """Regular expression that another key must match, too."""
    unused: str = ""
    """Regular expression of keys that no classifier reads; they are left out and reported."""
    note: str = ""
    """A note about weights under these names."""
    named: Callable[[State], Named | None] | None = None
    """The backbone that names and shapes of converted weights tell; None where they leave it open."""
    model_types: tuple[str, ...] = ()
    """The `model_type` of configurations of this layout."""
    configured: Callable[[Config, State, Size | None], Named] | None = None
    """The backbone of converted weights by their configuration and the size of the images, if that is known.

    Raises QueeError for a part that no backbone here has, or that contradicts the weights.
    """


def same(state: State) -> State:
    return state


def renaming(*rules: tuple[str, str]) -> Callable[[State], State]:
    """A conversion that renames by the rules and does nothing else."""
    return lambda state: rename(state, rules)


def rename(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """Translate every key by the rules, in order; raises QueeError where two keys become equal."""
    renamed: State = {}
    for key, value in state.items():
        name = key
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        if name in renamed:
            raise QueeError(f"two weights would be {name}: {key} is one of them")
        renamed[name] = value
    return renamed


def join(state: State, parts: tuple[str, str, str]) -> State:
    """Join query, key and value of each attention, `…attn.{part}.weight` and `.bias`, to timm's `…attn.qkv`."""
    joined = {}
    for key, value in state.items():
        before, dot, kind = key.rpartition(".")
        block, _, part = before.rpartition(".")
        if part not in parts or not block.endswith("attn"):
            joined[key] = value
        elif part == parts[0]:
            names = [f"{block}.{name}{dot}{kind}" for name in parts]
            if missing := [name for name in names if name not in state]:
                raise QueeError(f"{missing[0]} is missing beside {key}")
            joined[f"{block}.qkv{dot}{kind}"] = torch.cat([state[name] for name in names])
        elif f"{block}.{parts[0]}{dot}{kind}" not in state:
            raise QueeError(f"{block}.{parts[0]}{dot}{kind} is missing beside {key}")
    return joined


def shape(state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """Shape of a weight with so many axes; raises QueeError where it is missing or has others."""
    if key not in state or state[key].dim() != axes:
        found = "missing" if key not in state else f"of shape {tuple(state[key].shape)}, not of {axes} axes"
        raise QueeError(f"{key} is {found}")
    return tuple(state[key].shape)


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """The number of different numbers that the group of a regular expression finds at the beginning of keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def beside(kwargs: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords without those that have the usual value."""
    return {key: value for key, value in kwargs.items() if value != usual.get(key)}
