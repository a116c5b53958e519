"""What is read from Python files: a digest without comments, docstrings and layout, and the names that they import.

Reading all files of quee takes seconds of a core, and every stage needs them. So what was read is kept in
`.quee/sources.json` by the content of the file, and this module and Python by their own.
"""

import ast
import functools
import hashlib
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quee.work.io import write_json

KEPT = Path(".quee") / "sources.json"
"""From the folder in which a stage or a run works; without `.quee` nothing is kept."""
PACKAGES = ("quee", "tasks")


@dataclass(frozen=True)
class Source:
    """What is read from one file."""

    digest: str
    """Of its tokens without comments, docstrings and layout."""
    imported: tuple[tuple[str, str | None], ...]
    """(module, None) or (module, name) of quee and tasks that it imports, also inside functions, in order."""
    passed_on: dict[str, tuple[str, str]]
    """Names that it imports at its top: (module, name there) by name here."""


def source(path: Path) -> Source:
    """What a file holds now."""
    return _source(path, path.stat().st_mtime_ns)


@functools.cache
def _source(path: Path, _changed: int) -> Source:
    content = path.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    known, used = _kept(), _used()
    if key in known:
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            used[key] = _parsed(known[key])
    if key not in used:
        known.pop(key, None)  # so that `keep` replaces a damaged one
        used[key] = _read(content.decode("utf-8"))
    return used[key]


def keep() -> None:
    """Write what this process has used, if some of it was not kept yet."""
    known, used = _kept(), _used()
    if KEPT.parent.is_dir() and not used.keys() <= known.keys():
        write_json(KEPT, {"by": _by(), "files": {key: _plain(found) for key, found in used.items()}})
        _kept.cache_clear()


@functools.cache
def _kept() -> dict[str, Any]:
    try:
        content = json.loads(KEPT.read_bytes())
        files: dict[str, Any] = content["files"] if content["by"] == _by() else {}
    except (OSError, ValueError, KeyError, TypeError):  # it is not there or damaged
        return {}
    return files if isinstance(files, dict) else {}


@functools.cache
def _used() -> dict[str, Source]:
    return {}


@functools.cache
def _by() -> str:
    """What reads: this module and Python, whose tokens differ from version to version."""
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()


def _plain(found: Source) -> list[Any]:
    return [found.digest, found.imported, found.passed_on]


def _parsed(plain: Any) -> Source:
    digest, imported, passed_on = plain
    names = {str(name): (str(module), str(there)) for name, (module, there) in passed_on.items()}
    return Source(str(digest), tuple((str(m), None if n is None else str(n)) for m, n in imported), names)


def _read(text: str) -> Source:
    tree = ast.parse(text)
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return Source(
        hashlib.sha256("\n".join(_statements(text)).encode()).hexdigest()[:16],
        tuple(dict.fromkeys(_imported(tree))),
        {a.asname or a.name: (node.module or "", a.name) for node in froms for a in node.names},
    )


def _imported(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Imports for type checkers do not count; `module:function` of a registry does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, None) for alias in child.names if _own(alias.name))
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            if _own(child.module or ""):
                yield from ((child.module or "", alias.name) for alias in child.names)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            module, _, function = child.value.partition(":")
            if function.isidentifier() and _own(module):
                yield module, None
        yield from _imported(child)


def _own(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _statements(text: str) -> Iterator[str]:
    """The logical lines of Python source as depth and tokens; lines that are only a string are left out."""
    depth, words, plain, formatted, begun = 0, [], True, 0, (0, 0)
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("INDENT", "DEDENT"):
            depth += 1 if kind == "INDENT" else -1
        elif kind == "FSTRING_START":  # several tokens from Python 3.12 on, one before; the source text is the same
            begun, formatted = (begun, formatted + 1) if formatted else (token.start, 1)
        elif kind == "FSTRING_END":
            formatted -= 1
            if not formatted:
                words.append(_between(lines, begun, token.end))
                plain = False
        elif formatted or kind in ("COMMENT", "NL", "ENDMARKER", "ENCODING"):
            continue
        elif kind == "NEWLINE":
            if not plain:
                yield " ".join([str(depth), *words])
            words, plain = [], True
        else:
            words.append(token.string)
            plain = plain and kind == "STRING" and not re.match(r"[rbu]*f", token.string, re.IGNORECASE)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    part = lines[start[0] - 1 : end[0]]
    part[-1] = part[-1][: end[1]]
    part[0] = part[0][start[1] :]
    return "".join(part)
