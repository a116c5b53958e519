"""The code that stages depend on, read from the imports: `python -m tasks.dvc.dependencies` writes it into the dvc.yaml files.

A stage depends on the module `tasks/STAGE.py` and on all of `quee/` and `tasks/` that this imports, directly or through
others, except what never changes a result. Nobody keeps these lists by hand; a test compares them.
"""

import argparse
import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FILES = ("dvc.yaml", "ablations/dvc.yaml")

# Errors, refusals, progress bars, locks and where shards are computed and kept never change a result. What experiment.py
# and data/__init__.py say decides results through the values that stage `settings` writes, which are every other stage's
# parameters; an entry added to a registry or a key to the schema would otherwise run everything again. io.py fixes how
# results are written: whoever changes the bytes raises its format number and runs with --force.
EXEMPT = frozenset({
    "quee/__init__.py",
    "quee/data/__init__.py",
    "quee/errors.py",
    "quee/work/workers.py",
    "quee/settings/experiment.py",
    "quee/work/io.py",
    "quee/work/keys.py",
    "quee/work/machine.py",
    "quee/work/progress.py",
    "quee/work/reach.py",
    "quee/work/registry.py",
    "quee/settings/requirements.py",
    "quee/work/shards.py",
    "quee/work/store.py",
    "tasks/__init__.py",
    "tasks/dvc/dependencies.py",
    "tasks/work/journal.py",
    "tasks/work/lifeline.py",
    "tasks/work/locks.py",
    "tasks/partial.py",
    "tasks/resolved.py",
    "tasks/scale.py",
    "tasks/stage.py",
})  # fmt: skip
"""No dependencies, and what only they import is none either."""

FOLDERS = (
    "quee/network", "quee/evaluation", "quee/quantization", "quee/report", "quee/runtime",
)  # fmt: skip
"""Depended on as a whole, where any of it is used."""

READERS = frozenset({"targets", "predictors", "policies", "evaluate"})
"""Stages that read the feature cache and run no network."""
SKIMMED = frozenset({"quee/cache/read.py", "quee/cost.py"})
READ = frozenset({"quee/paths.py", "quee/precision.py"})
"""Of what SKIMMED import READERS need only READ; the rest builds a cache and traces a network, which `features` does."""

SCHEMA = frozenset({"quee/settings/experiment.py", "quee/data/__init__.py", "tasks/resolved.py"})
"""Stage `settings` depends on what other stages need not: the values they get are its result."""
VALUES = frozenset({"quee/data/__init__.py", "quee/data/sets.py", "quee/precision.py"})
"""Of what quee/settings/experiment.py imports these decide values; a backbone's name is checked and decides none."""

LAZY = {"quee.data.open_dataset": "quee/data/source.py", "quee.fit": "quee/api.py"}
"""Names that packages import when first used."""


def stages(file: str) -> list[str]:
    return list(yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["stages"])


def used_by(stage: str, start: str | None = None) -> set[str]:
    """Files of `quee/` and `tasks/` that a stage uses, from its module or from another file on."""
    found: set[str] = set()
    todo = [start or f"tasks/{stage}.py"]
    exempt = EXEMPT - SCHEMA if stage == "settings" else EXEMPT
    while todo:
        file = todo.pop()
        if file not in found and file not in exempt:
            found.add(file)
            known = VALUES if file in SCHEMA else READ if stage in READERS and file in SKIMMED else None
            own = {"quee/settings/experiment.py"} if file == "tasks/resolved.py" else set()
            todo += [other for other in imports(file) if known is None or other in known | own]
    return found


def wanted(stage: str) -> list[str]:
    """The code a stage depends on, as dvc.yaml lists it: sorted, FOLDERS as a whole."""
    whole = {file: next((f for f in FOLDERS if file.startswith(f"{f}/")), file) for file in used_by(stage)}
    return sorted(set(whole.values()))


def listed(text: str, stage: str) -> list[str]:
    """The code that the text of a dvc.yaml lists for a stage."""
    return [dep for dep in _entries(_deps(text, stage).group(2)) if _is_code(dep)]


def rewritten(text: str, names: list[str]) -> str:
    """The text of a dvc.yaml with the code its stages use; all else, comments too, stays."""
    for stage in names:
        found = _deps(text, stage)
        others = [dep for dep in _entries(found.group(2)) if not _is_code(dep)]
        lines = "".join(f"      - {dep}\n" for dep in [*wanted(stage), *others])
        text = f"{text[: found.start(2)]}{lines}{text[found.end(2) :]}"
    return text


def _deps(text: str, stage: str) -> re.Match[str]:
    found = re.search(rf"^(  {stage}:\n(?:    .*\n|\n)*?    deps:\n)((?:      - .*\n)+)", text, re.MULTILINE)
    assert found, f"stage {stage} has no deps"
    return found


def _entries(lines: str) -> list[str]:
    return [line.removeprefix("      - ") for line in lines.splitlines()]


def _is_code(dep: str) -> bool:
    return dep.startswith(("quee/", "tasks/"))


@functools.cache
def imports(file: str) -> tuple[str, ...]:
    """Files of quee/ and tasks/ that a file imports, inside functions too; not those for type checkers alone."""
    return tuple(dict.fromkeys(_imports(ast.parse((ROOT / file).read_text(encoding="utf-8")))))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (file for alias in child.names for file in _files(alias.name))
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            for alias in child.names:
                yield from _files(child.module or "")
                yield from _files(f"{child.module}.{alias.name}")
                if (name := f"{child.module}.{alias.name}") in LAZY:
                    yield LAZY[name]
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):  # `module:function` of a registry
            module, _, function = child.value.partition(":")
            if function.isidentifier():
                yield from _files(module)
        yield from _imports(child)


def _files(module: str) -> Iterator[str]:
    parts = module.split(".")
    if parts[0] not in ("quee", "tasks") or not all(part.isidentifier() for part in parts):
        return
    for length in range(1, len(parts) + 1):
        path = "/".join(parts[:length])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if (ROOT / file).is_file():
                yield file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.dvc.dependencies", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 3 where a list is not up to date"
    )
    options = parser.parse_args()
    stale = []
    for file in FILES:
        text = (ROOT / file).read_text(encoding="utf-8")
        if (new := rewritten(text, stages(file))) != text:
            stale.append(file)
            if not options.check:
                (ROOT / file).write_text(new, encoding="utf-8")
    print(f"{'to write' if options.check else 'written'}: {', '.join(stale)}" if stale else "up to date")
    sys.exit(3 if stale and options.check else 0)


if __name__ == "__main__":
    main()
