"""An option's `KEY=VALUE` pairs as keywords of a backbone."""

import json
from typing import Any

from quee.errors import UsageError


def settings_of(pairs: list[str], option: str = "--set") -> dict[str, Any]:
    """Keywords from an option's `KEY=VALUE` pairs with YAML values; raises UsageError naming a pair of another form."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{option} {pair!r}: give KEY=VALUE, as in_chans=1")
        if key in found:
            raise UsageError(f"{option} {key} is given twice: {found[key]!r} and {text!r}")
        try:
            found[key] = YAML(typ="safe", pure=True).load(text)
            json.dumps(found[key], allow_nan=False)
        except (YAMLError, TypeError, ValueError):
            raise UsageError(f"{option} {pair!r}: {text!r} is no number, word, list or mapping in YAML") from None
    return found
