"""What a checkpoint layout is: a way to name weights, and how its names become timm's."""

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
    """Regular expression of a key's end that tells the layout; what is before it is a prefix."""
    convert: Callable[[State], State] | None = None
    """Its names to the backbone's, mostly timm's; None: no backbone here has such parts."""
    advice: str = ""
    """What to do instead, where it is not read."""
    also: str = ""
    """Regular expression of which some key must have a match too."""
    unused: str = ""
    """Regular expression of keys that no classifier reads; they are left out, and said."""
    note: str = ""
    """What to know of weights under these names."""
    architecture: str = ""
    """Module whose `named(state)` tells the backbone that weights are of, with its keywords; empty where none can."""


def same(state: State) -> State:
    return state


def rename(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """Every key by the rules, in order; raises QueeError when two become one."""
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
    """Query, key and value of each attention, `…attn.{part}.weight` and `.bias`, joined to timm's `…attn.qkv`."""
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
