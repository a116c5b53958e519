"""Every stage of dvc.yaml, and of ablations/dvc.yaml, depends on exactly the code its module imports."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from quee.data.sets import DATASET
from quee.experiment import BLOCKS
from tasks.ablate import CODE

ROOT = Path(__file__).parent.parent

# Not dependencies, and what only they import is none either: errors, refusals, progress bars, locks and where shards are
# computed and kept never change a result. What experiment.py and data/__init__.py say decides results through the values that
# stage `settings` writes, which are every other stage's parameters; an entry added to a registry or a key to the schema would
# otherwise run everything again. io.py fixes how results are written: whoever changes the bytes raises its format number
# and runs with --force.
EXEMPT = {
    "quee/__init__.py",
    "quee/data/__init__.py",
    "quee/errors.py",
    "quee/executors.py",
    "quee/experiment.py",
    "quee/io.py",
    "quee/keys.py",
    "quee/progress.py",
    "quee/reach.py",
    "quee/registry.py",
    "quee/requirements.py",
    "quee/shards.py",
    "tasks/__init__.py",
    "tasks/journal.py",
    "tasks/lifeline.py",
    "tasks/locks.py",
    "tasks/partial.py",
    "tasks/resolved.py",
    "tasks/scale.py",
    "tasks/stage.py",
}

NO_NUMBERS = (
    "quee/backbones", "quee/cache.py", "quee/evaluation/__init__.py", "quee/evaluation/ablation/__init__.py",
    "quee/threads.py",
)  # fmt: skip
"""What ablations' points import that decides no number: no network runs, and the cache's content has its own digest."""

READERS = {"targets", "predictors", "policies", "evaluate"}
READ = {"quee/paths.py", "quee/precision.py"}
READERS_SKIM = ("quee/cache.py", "quee/cost.py")
"""These stages read the cache and run no network. Of what READERS_SKIM import they need only READ; the rest builds a
cache and traces a network, which `features` does."""

SCHEMA = {"quee/experiment.py", "quee/data/__init__.py", "tasks/resolved.py"}
"""Stage `settings` depends on what other stages need not: the values they get are its result."""
VALUES = {"quee/data/__init__.py", "quee/data/sets.py", "quee/precision.py"}
"""Of what quee/experiment.py imports these decide values; a backbone's name is checked and decides none."""

LAZY = {"quee.data.open_dataset": "quee/data/source.py", "quee.fit": "quee/api.py"}
"""Names that packages import when first used."""

STAGES = {
    name: stage
    for file in ("dvc.yaml", "ablations/dvc.yaml")
    for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items()
}


@functools.cache
def imports(file: str) -> tuple[str, ...]:
    """Files of quee/ and tasks/ that a file imports, inside functions too; not those for type checkers alone."""
    return tuple(dict.fromkeys(_imports(ast.parse((ROOT / file).read_text()))))


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


def used_by(stage: str, start: str | None = None) -> set[str]:
    found: set[str] = set()
    todo = [start or f"tasks/{stage}.py"]
    while todo:
        file = todo.pop()
        if file not in found and file not in (EXEMPT - SCHEMA if stage == "settings" else EXEMPT):
            found.add(file)
            known = VALUES if file in SCHEMA else READ if stage in READERS and file in READERS_SKIM else None
            own = {"quee/experiment.py"} if file == "tasks/resolved.py" else set()
            todo += [other for other in imports(file) if known is None or other in known | own]
    return found


def listed_for(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if dep.startswith(("quee/", "tasks/"))}


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_uses(stage: str) -> None:
    used, listed = used_by(stage), listed_for(stage)
    missing = sorted(file for file in used if not any(covers(dep, file) for dep in listed))
    superfluous = sorted(dep for dep in listed if not any(covers(dep, file) for file in used))
    assert (missing, superfluous) == ([], []), f"stage {stage}: (missing, superfluous)"


def test_points_of_an_ablation_are_known_by_all_the_code_that_decides_them() -> None:
    used = used_by("evaluate", "quee/evaluation/ablation/fit.py")  # which reads caches and runs no network
    assert [file for file in sorted(used) if not any(covers(code, file) for code in (*CODE, *NO_NUMBERS))] == []
    assert all((ROOT / code).exists() for code in CODE)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_result_it_reads(stage: str) -> None:
    prefix = "artifacts/${item.experiment}/"
    listed = {dep.removeprefix(prefix) for dep in STAGES[stage]["deps"] if dep.startswith(prefix)}
    read = {
        node.args[0].value
        for file in used_by(stage)
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "input"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }
    assert read <= listed


def blocks_of(stage: str) -> set[str]:
    """Parts of the resolved settings that a stage takes as parameters."""
    (params,) = STAGES[stage]["params"]
    ((file, blocks),) = params.items()
    assert file == "artifacts/${item.experiment}/settings/settings.json"
    return set(blocks)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "settings"])
def test_a_stage_takes_the_settings_it_reads_as_parameters(stage: str) -> None:
    code = "\n".join((ROOT / file).read_text() for file in used_by(stage) if file.startswith("tasks/"))
    read = set(re.findall(r"experiment\.([a-z]+)(?!\w)", code)) & set(BLOCKS)
    dataset = {"dataset"} if "quee/data/source.py" in used_by(stage) else set()
    # what `prepare` says reaches later stages as its result; they take the name of the data set with what is known of it
    assert (read - {"prepare"} if stage != "prepare" else read) | dataset <= blocks_of(stage)


def test_every_block_is_a_parameter_of_some_stage() -> None:
    assert set().union(*(blocks_of(stage) for stage in STAGES if stage != "settings")) == {*BLOCKS, DATASET}


def test_a_stage_writes_its_own_folder_alone() -> None:
    for name, stage in STAGES.items():
        assert stage["outs"] == [f"artifacts/${{item.experiment}}/{name}"]
        assert stage["cmd"] == f"python -m tasks.{name} ${{item.experiment}}"


if __name__ == "__main__":
    for chosen in sys.argv[1:] or STAGES:
        print(chosen, *sorted(used_by(chosen)))
