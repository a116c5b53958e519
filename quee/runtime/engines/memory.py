"""What was measured of engines on this machine, in a file of the user's cache folder, by key.

A key names everything that the result depends on: the CPU with its instruction sets, the engine's version, threads.
"""

import json
import os
from pathlib import Path

from quee.work.io import write_json


def cache_file() -> Path:
    """File in the user's cache folder that remembers measurements."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quee" / "engines.json"


def remembered(key: str) -> str | None:
    """What is known under a key; None where nothing is, or the file cannot be read."""
    found = _all().get(key)
    return found if isinstance(found, str) else None


def remember(key: str, value: str) -> None:
    """Keep a measurement; if the file cannot be written, it is not remembered."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**_all(), key: value})
    except OSError:
        return


def _all() -> dict[str, object]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
