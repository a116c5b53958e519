"""What other tools said, in one line: the reason of a failure is theirs to name."""

import re

MOST_BLOCKS = 3
FOOTER = "Having any troubles?"
LEVEL = re.compile(r"^(ERROR|WARNING|INFO)\s*:\s*")


def last_words(text: str) -> str:
    """Why a command line failed, in its words and one line: its warnings and errors, whole, or else its last line."""
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
    """Long words' beginning and end: the last ones are often those that say what was wrong."""
    return words if len(words) <= most else f"{words[: most // 2]} … {words[-most // 2 :]}"
