"""Several callers at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What `act(0)` to `act(count - 1)` return, each called in a thread of its own; raises what one of them raised."""
    with ThreadPoolExecutor(count) as callers:
        return list(callers.map(act, range(count)))
