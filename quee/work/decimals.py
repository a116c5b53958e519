"""Numbers that are written with a decimal comma, as in many languages; here they have a point."""

import re

COMMA = re.compile(r"\s*([+-]?\d*),(\d+)\s*")


def comma_hint(given: object) -> str:
    """What to add to the refusal of a value: how its number is written here; empty for any other value."""
    found = COMMA.fullmatch(given) if isinstance(given, str) else None
    return f"; write the number with a point: {found[1] or '0'}.{found[2]}" if found else ""
