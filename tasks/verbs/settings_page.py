"""`python -m tasks.verbs.settings_page` writes docs/settings.md: every key of an experiment, from the blocks that check them.

Types, ranges and defaults are those that pydantic checks; what a key means is the string behind it in `quee/settings/`.
"""

import argparse
import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from quee.precision import Precision
from quee.settings.backbone import Measured
from quee.settings.block import Block
from quee.settings.experiment import BLOCKS, Experiment
from quee.settings.paths import Searched
from quee.work.io import write_bytes

PAGE = Path("docs") / "settings.md"
HEAD = """# Settings

Every key of `experiments/NAME.yaml`, block by block, with its values and default. A key or block that is left out has its
default. `quee experiments show digits` prints an experiment with all defaults filled in. Unknown keys and values out of range
are refused before anything runs, and the message names the valid ones. This page is made from `quee/settings/` by `make docs`.

A *precision* is `w4a4`, with the bits of weights and activations, or `fp32`, `bf16`, `fp16`."""
CHOSEN = (Measured, Searched)
"""Blocks of one key, `auto`, which a key may have instead of a list."""
AUTO = "`auto`, `{auto: N}`"
LONG = 2**20
"""Limits from here on are powers of two."""


def page() -> str:
    """The page in Markdown."""
    blocks = [_block(name, Experiment.model_fields[name].annotation) for name in BLOCKS]
    return "\n\n".join([HEAD, *blocks]) + "\n"


def _block(name: str, block: Any) -> str:
    parts = [f"## `{name}`", _text(block.__doc__), _table(block)]
    for key, inner in _inner(block):
        parts += [f"### `{name}.{key}`", _text(inner.__doc__), _table(inner)]
    return "\n\n".join(parts)


def _inner(block: type[Block]) -> Iterator[tuple[str, type[Block]]]:
    """The keys of a block whose values have keys of their own, with the block of these."""
    for key, field in block.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Block):
            yield key, field.annotation


def _table(block: type[Block]) -> str:
    inner, meanings = dict(_inner(block)), _meanings(block)
    lines = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in block.model_fields.items():
        default = "below" if key in inner else _default(field)
        values = "keys, below" if key in inner else _values(field.annotation, field.metadata)
        if isinstance(field.default, CHOSEN) and AUTO not in values:  # its type is a check
            values = _either([values, AUTO])
        lines.append(f"| `{key}` | {values} | {default} | {_text(meanings[key])} |".replace("  ", " "))
    return "\n".join(lines)


def _meanings(block: type[Block]) -> dict[str, str]:
    """The string behind every key."""
    found = {}
    for base in reversed([one for one in block.__mro__ if issubclass(one, Block) and one is not Block]):
        body = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, behind in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(behind, ast.Expr):
                found[field.target.id] = str(ast.literal_eval(behind.value))
    return found


def _text(docstring: str | None) -> str:
    """A docstring in lines as they are wrapped by a viewer, its paragraphs kept."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it must be given"
    return f"`{_yaml(field.get_default(call_default_factory=True))}`"


def _yaml(value: Any) -> str:
    """A value as it stands in YAML."""
    if isinstance(value, Block):
        return _yaml(value.model_dump(exclude_unset=type(value) not in CHOSEN))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return (f"{value:g}" if isinstance(value, float) else str(value)) or '""'


def _values(kind: Any, checks: Sequence[Any] = ()) -> str:
    """The values that a type takes, in words; `checks` are pydantic's beside it."""
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        return _values(kind, [*(meta for one in more for meta in getattr(one, "metadata", [one])), *checks])
    if get_origin(kind) in (Union, UnionType):
        return _either([_values(part, () if part is NoneType else checks) for part in get_args(kind)])
    if get_origin(kind) is Literal:
        return _either([f"`{_yaml(value)}`" for value in get_args(kind)])
    if get_origin(kind) is tuple or kind is tuple:
        return _listed(kind, checks)
    if get_origin(kind) is dict:
        _, value = get_args(kind)
        return f"keys, each with a {_values(value)}" if value is not Any else "keys with values"
    if kind in CHOSEN:
        return AUTO
    if inspect.isclass(kind) and issubclass(kind, Block):
        return f"keys ({', '.join(f'`{name}`' for name in kind.model_fields)})"
    if kind is Precision or (kind is str and any(isinstance(check, BeforeValidator) for check in checks)):
        return "precision"
    plain = {bool: "`true` or `false`", str: "text", NoneType: "`null`"}
    if kind in plain:
        return plain[kind]
    return f"{'whole number' if kind is int else 'number'}{_range(checks)}"


def _listed(kind: Any, checks: Iterable[Any]) -> str:
    entry = next(iter(get_args(kind)), None)
    least = next((check.min_length for check in checks if hasattr(check, "min_length")), 0)
    some = f" (at least {least})" if least else ""
    return "list" + (f" of: {_values(entry)}" if entry is not None else "") + some


def _range(checks: Iterable[Any]) -> str:
    """Limits in words, to follow `number`."""
    limits = {
        side: getattr(check, side) for check in checks for side in ("ge", "gt", "le", "lt") if hasattr(check, side)
    }
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    shown = {
        side: f"2^{limit.bit_length() - 1}" if limit >= LONG else _yaml(limit)
        for side, limit in limits.items()
        if limit is not None
    }
    return "".join(f" {word} {shown[side]}" for side, word in words.items() if side in shown)


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.verbs.settings_page", description="Write docs/settings.md.")
    parser.parse_args()
    write_bytes(PAGE, page().encode())


if __name__ == "__main__":
    main()
