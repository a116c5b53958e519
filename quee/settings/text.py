"""Text files that people write: their encoding is checked, and an error names the file."""

from pathlib import Path
from typing import Any

from quee.errors import UsageError


def read_text(file: Path, name: str = "") -> str:
    """Text of a file in UTF-8, with or without a byte-order mark; `name` is what errors call it, its path by default.

    Raises UsageError where it is in another encoding, FileNotFoundError where there is none.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        said = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise UsageError(f"{name or file}: not UTF-8 text ({said}): save it in UTF-8") from None


def yaml_fault(error: Any) -> str:
    """A YAML library's error in one line: where it is and what it is."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    where = f"line {mark.line + 1}: " if mark else ""
    return f"not YAML: {where}{' '.join(problem.split())}"
