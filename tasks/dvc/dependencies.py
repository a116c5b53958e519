"""The code that stages depend on: found by following imports, and compared by digests without comments and docstrings.

Stage `settings` writes artifacts/EXPERIMENT/settings/code.json: for every stage the files of `quee/` and `tasks/` that
`tasks/STAGE.py` imports, directly or through others, each with its digest. In dvc.yaml a stage takes its part of that file
as a parameter, so there are no lists of code. `python -m tasks.dvc.dependencies STAGE [EXPERIMENT]` prints a stage's files.
"""

import argparse
import functools
import json
from pathlib import Path

import yaml

from quee.errors import UsageError
from tasks.dvc.sources import PACKAGES, keep, source
from tasks.stages import FILES, SETTINGS, STAGES

ROOT = Path(__file__).parents[2]
NAME = "code.json"
INSTALLED = "installed.json"
"""File of a project outside of a clone: version and digest of the installed code, on which stage `settings` depends."""

REGISTRY = "quee/network/architectures/__init__.py"
"""A stage that builds a backbone imports this registry; it depends on the file of the experiment's architecture instead."""

EXEMPT = {
    "quee/__init__.py": "the version, and names that are imported when they are used",
    "quee/errors.py": "types of errors",
    "quee/network/names.py": "messages for names that are unknown",
    "quee/network/checkpoints/layouts/": "`quee weights add` translates names of weights; stages read the file that it writes",
    "quee/settings/": "stages take the values from settings.json, which stage `settings` writes",
    "quee/data/__init__.py": "what it knows of a data set is block `dataset` of settings.json",
    "quee/work/extras.py": "the message for a package that is not installed",
    "quee/work/io.py": "whoever changes the bytes of files raises FORMAT and runs with --force",
    "quee/work/keys.py": "keys of resumable work",
    "quee/work/machine.py": "the CPU's name",
    "quee/work/progress.py": "progress bars",
    "quee/work/reach.py": "which faults are worth another try",
    "quee/work/registry.py": "lookup by name and the message for an unknown one",
    "quee/work/shards.py": "which shards are missing; what one computes is the caller's code",
    "quee/work/store.py": "where unfinished work is kept",
    "quee/work/workers.py": "where shards are computed; results do not depend on it (tested)",
    "tasks/dvc/": "what is stale, not what is computed",
    "tasks/partial.py": "keys of resumable work",
    "tasks/resolved.py": "reads settings.json",
    "tasks/scale.py": "shard sizes and workers; results do not depend on them (tested)",
    "tasks/stages.py": "the list of stages",
    "tasks/stage.py": "the folder, lock and exit status of a stage",
    "tasks/work/": "locks, journal and lifetime of processes",
}
"""Files and folders that never change a result, each with the reason; files that only they import do not count either."""

DECIDING = frozenset({"quee/settings/quantize.py", "quee/settings/sets.py"})
"""Files of quee/settings that do count: the values of presets, and the splits of an evaluation set."""

READERS = frozenset(name for name, kind in STAGES.items() if kind.reads_cache)
SKIMMED = {
    "quee/cost.py": "tracing a network, which `features` does, imports its modules",
}
READ = frozenset({"quee/precision.py"})
"""The imports of SKIMMED that READERS use."""

LAZY = {"quee.fit": "quee/api.py"}
"""Names that packages import on first use."""


def code_file(experiment: str) -> str:
    """Path of the file with the digests from the project's folder, in dvc.yaml's form."""
    return f"artifacts/{experiment}/{SETTINGS}/{NAME}"


def code_of(project: Path, backbone: str) -> dict[str, dict[str, str]]:
    """By stage, the files it depends on and their digests, for experiments with this backbone.

    Stages are those of the project's dvc.yaml files that take their code from the file of digests.
    """
    root = project.resolve() if is_clone(project) else ROOT
    found: dict[str, dict[str, str]] = {}
    for file in FILES:
        if (project / file).is_file():
            content = yaml.safe_load((project / file).read_text(encoding="utf-8")) or {}
            for name, stage in content.get("stages", {}).items():
                if f"/{NAME}" in json.dumps(stage):
                    found[name] = {path: digest(root, path) for path in sorted(used_by(name, backbone, root))}
    keep()
    return found


def is_clone(project: Path) -> bool:
    """Whether the code that stages run lies in the project's folder; otherwise it is installed."""
    return (project / "quee" / "__init__.py").is_file() and (project / "tasks" / "stages.py").is_file()


def code_root(project: Path) -> Path:
    """The folder with the code that a project's stages run: the project's own, or that of the installed packages."""
    return ROOT if (project / INSTALLED).is_file() else project


def used_by(stage: str, backbone: str, root: Path = ROOT, start: str | None = None) -> set[str]:
    """Files of `quee/` and `tasks/` that a stage uses, from its module or from the file `start` on."""
    from quee.network.architectures import file_of

    found: set[str] = set()
    todo = [start or f"tasks/{stage}.py"]
    while todo:
        file = todo.pop()
        if file == REGISTRY:
            file = file_of(backbone)
        if file not in found and not is_exempt(file):
            found.add(file)
            skim = stage in READERS and file in SKIMMED
            todo += [other for other in imports(root, file) if not skim or other in READ]
    return found


def is_exempt(file: str) -> bool:
    """Whether a file never changes a result."""
    listed = any(file == one or (one.endswith("/") and file.startswith(one)) for one in EXEMPT)
    return listed and file not in DECIDING


def digest(root: Path, file: str) -> str:
    """Digest of a Python file's tokens without comments, docstrings and layout."""
    return source(root / file).digest


def imports(root: Path, file: str) -> tuple[str, ...]:
    """Files of quee/ and tasks/ that a file imports, also inside functions; imports for type checkers do not count."""
    path = root / file
    return _imports_of(root, path, path.stat().st_mtime_ns)


@functools.cache
def _imports_of(root: Path, path: Path, _changed: int) -> tuple[str, ...]:
    imported = source(path).imported
    found = (_file(root, module) if name is None else _defining(root, module, name) for module, name in imported)
    return tuple(dict.fromkeys(file for file in found if file))


def _defining(root: Path, module: str, name: str) -> str | None:
    """The file that defines the name in `from module import name`; a module that only passes a name on does not count."""
    if f"{module}.{name}" in LAZY:
        return LAZY[f"{module}.{name}"]
    if file := _file(root, f"{module}.{name}"):
        return file
    file = _file(root, module)
    if file:
        there = source(root / file).passed_on.get(name)
        if there and _file(root, there[0]):
            return _defining(root, *there)
    return file


def _file(root: Path, module: str) -> str | None:
    parts = module.split(".")
    if parts[0] not in PACKAGES or not all(part.isidentifier() for part in parts):
        return None
    path = "/".join(parts)
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (root / file).is_file()), None)


def main() -> None:
    from quee.settings.experiment import load_experiment
    from quee.work.registry import unknown
    from tasks.work.place import ending

    parser = argparse.ArgumentParser(prog="python -m tasks.dvc.dependencies", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("experiment", nargs="?", default="digits")
    options = parser.parse_args()
    with ending():
        if options.stage not in STAGES:
            raise UsageError(unknown("stage", options.stage, list(STAGES)))
        backbone = load_experiment(options.experiment).backbone.name
    print("\n".join(sorted(used_by(options.stage, backbone))))


if __name__ == "__main__":
    main()
