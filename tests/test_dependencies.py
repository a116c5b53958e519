"""flows → tasks → quee, the layers inside quee, no circles, and each orchestrator in one place.

Imports inside functions count like those of modules; those for type checkers alone do not.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for folder in ("quee", "tasks", "flows") for file in (ROOT / folder).rglob("*.py"))

MAY_IMPORT = {
    "prefect": ("flows/",),
    "dvc": ("tasks/dvc/",),
    "mlflow": ("tasks/mlflow/", "quee/runtime/pyfunc.py"),
    "flows": ("flows/",),
    "tasks": ("flows/", "tasks/"),
}

LAYERS = (
    "quee/errors.py",
    "quee/work/",
    "quee/precision.py",
    "quee/paths.py",
    "quee/evenly.py",
    "quee/groups.py",
    "quee/intervals.py",
    "quee/hull.py",
    "quee/measure.py",
    "quee/budgets.py",
    "quee/settings/",
    "quee/data/",
    "quee/_logistic.py",
    "quee/_perceptron.py",
    "quee/features.py",
    "quee/network/",
    "quee/cost.py",
    "quee/ensembles.py",
    "quee/quantization/",
    "quee/exits/",
    "quee/trees/",
    "quee/cache/",
    "quee/targets.py",
    "quee/policies/",
    "quee/settings/experiment.py",  # compares a YAML's names with the registries of data sets, architectures, policies
    "quee/settings/requirements.py",  # compares settings with the data and the network
    "quee/predictors.py",
    "quee/evaluation/",
    "quee/report/",
    "quee/runtime/",
    "quee/export/",
    "quee/fitting/",
    "quee/serving/",
    "quee/api.py",
    "quee/cli/",
    "quee/__main__.py",
)
"""Each layer may import the layers above it. A file belongs to the longest entry that fits."""

ONLY = {
    "quee/report/": (
        "quee/errors.py",
        "quee/work/",
        "quee/measure.py",
        "quee/policies/",
        "quee/evaluation/near.py",  # the list of accuracy losses at which costs are compared
    ),
    "quee/runtime/": (
        "quee/errors.py",
        "quee/evenly.py",
        "quee/work/",
        "quee/measure.py",
        "quee/budgets.py",
        "quee/precision.py",
        "quee/paths.py",
        "quee/policies/",
    ),
}
"""Layers that import only these of the layers above them, or single files of one."""

_TORCH = "engine torch runs the networks of a bundle as the stages do"
_IMAGES = "an image is decoded and prepared by the code that prepared the training images"
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("quee/data/weights.py", "quee/network/"): "weights are checked against the network that they are for",
    ("quee/network/files.py", "quee/quantization/"): "a quantized network is read and written like a float one",
    ("quee/runtime/", "quee/data/"): _IMAGES,
    ("quee/runtime/", "quee/features.py"): "engines compute the state features that the simulation computes",
    ("quee/runtime/", "quee/ensembles.py"): "a bundle answers with the ensembles that the simulation answers with",
    ("quee/runtime/", "quee/export/"): _TORCH,
}
"""(File or folder, layer) of imports against the direction, with the reason."""


def imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, with `package.name` for each name of a `from` import."""
    yield from _imports(ast.parse(file.read_text(encoding="utf-8")))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imports(child)


def imports_at_once(file: Path) -> Iterator[str]:
    """Dotted names that a file imports when it is imported itself, outside of functions."""

    def visible(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            yield from visible(child)

    for node in visible(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_file(name: str) -> str | None:
    """The file of a dotted name: of the module or package itself, or of the module that holds the name."""
    for dotted in (name, name.rpartition(".")[0]):
        path = dotted.replace(".", "/")
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if path and (ROOT / file).is_file():
                return file
    return None


IMPORTS = {file.relative_to(ROOT).as_posix(): set(imports(file)) for file in FILES}
GRAPH = {
    name: {found for dotted in names if (found := module_file(dotted)) and found != name}
    for name, names in IMPORTS.items()
}
"""File to the files it imports."""


def layer(file: str) -> str:
    return max((entry for entry in LAYERS if file.startswith(entry)), key=len, default="")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_only_its_own_place_imports(package: str) -> None:
    names = [name for name, found in IMPORTS.items() if package in {dotted.partition(".")[0] for dotted in found}]
    assert [name for name in names if not name.startswith(MAY_IMPORT[package])] == []
    assert names, f"nothing imports {package}: the rule has no object"


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def against() -> set[tuple[str, str]]:
    """(File, layer) of every import within quee that the layers do not allow."""
    rank = {entry: number for number, entry in enumerate(LAYERS)}
    found = set()
    for name, others in GRAPH.items():
        if not (own := layer(name)):
            continue
        allowed = ONLY.get(own, LAYERS[: rank[own]])
        for file in others:
            other = layer(file)
            if other and other != own and other not in allowed and file not in allowed:
                found.add((name, other))
    return found


def excepted(name: str, other: str) -> bool:
    return any(name.startswith(file) and other == above for file, above in EXCEPTIONS)


def test_imports_within_quee_go_one_way() -> None:
    assert [found for found in sorted(against()) if not excepted(*found)] == []


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_every_exception_is_still_one(exception: tuple[str, str]) -> None:
    assert [name for name, other in against() if name.startswith(exception[0]) and other == exception[1]]


def test_every_file_of_quee_has_a_layer() -> None:
    assert [name for name in GRAPH if name.startswith("quee/") and not layer(name)] == ["quee/__init__.py"]


BASE = {"PIL", "numpy", "pydantic", "rich", "safetensors", "typer"}
"""What quee needs without an extra: the base dependencies of pyproject.toml."""
SERVE = {"anyio", "fastapi", "h11", "prometheus_client", "python_multipart", "starlette", "uvicorn"}
LIGHT = {
    "quee/runtime/": BASE,
    "quee/policies/": BASE,
    "quee/cli/": BASE,
    "quee/serving/": BASE | SERVE,
}
"""Folders of a deployed bundle, with the packages that may be imported with them; engines import theirs when opened."""


@pytest.mark.parametrize("folder", LIGHT)
def test_what_runs_a_bundle_imports_no_extra(folder: str) -> None:
    """Neither PyTorch nor SciPy, scikit-learn, pyarrow, matplotlib and the like; not by way of other files of quee either."""
    mlflow_loads = "quee/runtime/pyfunc.py"
    todo = [name for name in GRAPH if name.startswith(folder) and name != mlflow_loads]
    seen, found = set(todo), {}
    while todo:
        file = todo.pop()
        for dotted in imports_at_once(ROOT / file):
            parts = dotted.split(".")
            own = {module_file(".".join(parts[:n])) for n in range(1, len(parts) + 1)}
            for other in {name for name in own if name} - seen:
                seen.add(other)
                todo.append(other)
            if parts[0] not in sys.stdlib_module_names | {"quee"} | LIGHT[folder]:
                found[parts[0]] = file
    assert found == {}
    assert len(seen) > 10


def test_the_base_dependencies_are_what_a_bundle_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {entry.partition(">")[0] for entry in project["dependencies"]}
    assert named == {"pillow" if name == "PIL" else name for name in BASE}
