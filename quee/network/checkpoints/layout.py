"""A checkpoint layout: a way to name weights, and the translation to timm's names."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from quee.errors import QueeError

State = dict[str, Tensor]


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
    architecture: str = ""
    """Module whose `named(state)` tells the backbone of the weights and its keywords; empty where none can."""


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
