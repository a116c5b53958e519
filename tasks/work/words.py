"""The messages of other tools in one line, because they name the reason of a failure."""

import re

MOST_BLOCKS = 3
FOOTER = "Having any troubles?"
LEVEL = re.compile(r"^(ERROR|WARNING|INFO)\s*:\s*")


def last_words(text: str) -> str:
    """Why a command failed, in one line of its own words: its warnings and errors, or else its last line."""
    blocks: list[list[str]] = []
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(FOOTER)]
    for line in lines:
        if LEVEL.match(line):
            blocks.append([LEVEL.sub("", line)] if not line.startswith("INFO") else [])
        elif blocks:
            blocks[-1].append(line)
    newest = dict.fromkeys(" ".join(block) for block in reversed(blocks) if block)
    return "; ".join(shortened(words) for words in reversed([*newest][:MOST_BLOCKS])) or "".join(lines[-1:])


def shortened(words: str, most: int = 400) -> str:
    """A text cut in the middle: its last words often say what was wrong."""
    return words if len(words) <= most else f"{words[: most // 2]} … {words[-most // 2 :]}"
