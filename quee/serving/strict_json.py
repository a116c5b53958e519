"""JSON from strangers: bounded depth and number of containers, no key twice, no NaN."""

import json
import re
from typing import Any

import numpy as np

from quee.serving.refusal import bad

DEPTH = 16
CONTAINERS = 2_000_000
"""Lists and objects in a body: an empty one takes 2 bytes here and 60 in memory."""
# Its closing quote may be missing: a pattern that then failed would be tried again from every quote that follows.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1


def loads(data: bytes, depth: int = DEPTH) -> Any:
    """The value of a UTF-8 JSON text; raises RefusedError (400) with the reason."""
    steps = _STEP[np.frombuffer(_STRING.sub(b"", data), np.uint8)]
    moves = steps[steps != 0]
    if len(moves) and (deepest := int(np.cumsum(moves, dtype=np.int64).max())) > depth:
        raise bad(f"JSON nested {deepest} deep; at most {depth}")
    if (opened := int((moves > 0).sum())) > CONTAINERS:
        raise bad(f"JSON with {opened} lists and objects; at most {CONTAINERS}")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise bad(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise bad(f"JSON nested too deep; at most {depth}") from None
    except ValueError as error:
        raise bad(f"not JSON: {str(error)[:200]}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise bad(f"key {twice[:80]!r} is given twice", "duplicate_key")
    return found


def _constant(name: str) -> Any:
    raise bad(f"{name} is not a JSON number", "not_finite")
