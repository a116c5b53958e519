"""A project's own files: a folder with images, experiments and results, outside of a clone of quee.

`tasks/project/` holds the files that a project needs; in a clone they are links to the repository's own. `make_project`
writes them, and `quee init` is its verb. In a clone stage `settings` depends on the folders of the code. In a project it
depends on `installed.json`, the version and digest of the installed code, which runs and plans keep up to date.
"""

import configparser
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import yaml

from quee.errors import QueeError, UsageError
from quee.work.io import write_bytes
from tasks.dvc.dependencies import INSTALLED, ROOT, is_clone
from tasks.dvc.experiments import FILE as PARAMS
from tasks.dvc.lock import git
from tasks.stages import FILES, template

PIPELINE, ABLATIONS = FILES
FOLDERS = ("data", "experiments")
MEASURED = "benchmarks/results/README.md"
MEASURED_TEXT = (
    "Measured times by experiment, NAME.json: stage `report` shows them. Empty until a benchmark writes here.\n"
)
PACKAGES = ("quee", "tasks", "flows")
"""Packages of quee: modules of these names in a project's folder would be imported in their place."""
EXAMPLE = "\nmetrics:\n"
"""Where the part of dvc.yaml begins that names the results of the repository's own experiment."""
CODE = "      deps:\n        - quee\n        - tasks\n"
"""Dependencies of stage `settings` in a clone."""
NO_EXPERIMENTS = "experiments: {}\n"
DVC_SETTINGS = {"analytics": "false", "check_update": "false", "autostage": "false"}


def pipeline_text() -> str:
    """`dvc.yaml` of a project: the repository's stages, with the installed code as dependency in place of folders."""
    text = template(PIPELINE).read_text(encoding="utf-8").partition(EXAMPLE)[0].rstrip("\n") + "\n"
    return text.replace(CODE, f"      deps:\n        - {INSTALLED}\n")


def params_text() -> str:
    """`params.yaml` of a project: the repository's comment, and no experiment yet."""
    lines = template(PARAMS).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("#")) + NO_EXPERIMENTS


def project_files() -> dict[str, str]:
    """Content of every file of a new project, by its path."""
    names = (ABLATIONS, "prefect.yaml", ".gitignore", ".dvcignore")
    copied = {name: template(name).read_text(encoding="utf-8") for name in names}
    return {PIPELINE: pipeline_text(), PARAMS: params_text(), **copied, MEASURED: MEASURED_TEXT}


def installed_text() -> str:
    """Content of `installed.json`: version and digest of the code that runs."""
    found = hashlib.sha256()
    for package in ("quee", "tasks"):
        for file in sorted((ROOT / package).rglob("*.py")):
            found.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return json.dumps({"digest": found.hexdigest(), "quee": version("quee")}, indent=1) + "\n"


def note_installed(root: Path) -> None:
    """Keep `installed.json` up to date where the project's `dvc.yaml` depends on it."""
    if INSTALLED not in (root / PIPELINE).read_text(encoding="utf-8"):
        return
    content, file = installed_text().encode(), root / INSTALLED
    if not file.is_file() or file.read_bytes() != content:
        write_bytes(file, content)


def is_project(root: Path) -> bool:
    """Whether `quee init` made this folder, or it is a clone of quee."""
    return is_clone(root) or _is_ours(root / PIPELINE)


def outdated(root: Path) -> list[str]:
    """Files of a project of `quee init` that differ from what the installed quee would write, where this changes a run."""
    if is_clone(root) or not (root / INSTALLED).is_file():
        return []
    wanted = {PIPELINE: pipeline_text(), ABLATIONS: template(ABLATIONS).read_text(encoding="utf-8")}
    return [
        name
        for name, text in wanted.items()
        if not (root / name).is_file() or _stages(root / name) != yaml.safe_load(text)["stages"]
    ]


def refuse_place(root: Path) -> None:
    """Raises UsageError where no project can be made in this folder."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; give a folder")
    for place in (root.resolve(), *root.resolve().parents):
        if is_clone(place):
            raise UsageError(f"{place} is a clone of quee: everything is there; call `quee start IMAGES` in its folder")
        if place != root.resolve() and _is_ours(place / PIPELINE):
            raise UsageError(f"{root} is inside of the project {place}: call the verbs there, or give a folder outside")
    for name in PACKAGES:
        if found := next((path for path in (root / name, root / f"{name}.py") if path.exists()), None):
            raise UsageError(
                f"{found} is in the way: Python would import it in place of quee's module {name}; give another folder"
            )
    if (root / PIPELINE).is_file() and not _is_ours(root / PIPELINE):
        raise UsageError(
            f"{root / PIPELINE} is of another DVC project, and nothing is overwritten; give another folder"
        )
    if (root / PARAMS).is_file() and not isinstance(_yaml(root / PARAMS).get("experiments"), dict):
        raise UsageError(f"{root / PARAMS} is there without a mapping `experiments`, and nothing is overwritten")


def make_project(root: Path, with_git: bool = True, notify: Callable[[str], None] = lambda _: None) -> list[str]:
    """Make a project in a folder, or what is missing of it; returns what was made.

    Nothing that is there is overwritten; `.gitignore` gets the lines that it lacks. Raises UsageError where the folder is a
    clone of quee, lies inside another project or belongs to another DVC project, and where git is missing.
    """
    refuse_place(root)
    if with_git and shutil.which("git") is None:
        raise UsageError("git is not installed; install it, or give --no-git: results are then kept without commits")
    root.mkdir(parents=True, exist_ok=True)
    return list(_made(root, with_git, notify))


def _made(root: Path, with_git: bool, notify: Callable[[str], None]) -> Iterator[str]:
    inside = git(root, "rev-parse", "--show-prefix")  # an empty line at the repository's top
    if with_git and inside is None:
        _call_git(root, "init", "--quiet")
        inside = ""
        yield ".git"
    for name, text in project_files().items():
        if (root / name).is_file():
            missing = [line for line in text.splitlines() if line not in (root / name).read_text().splitlines()]
            if name == ".gitignore" and missing:
                before = (root / name).read_text(encoding="utf-8")
                gap = "" if before.endswith("\n") or not before else "\n"
                write_bytes(root / name, (before + gap + "\n".join(missing) + "\n").encode())
                yield f"{name} ({len(missing)} lines added)"
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(root / name, text.encode())
        yield name
    for name in FOLDERS:
        if not (root / name).is_dir():
            (root / name).mkdir()
            yield f"{name}/"
    if not (root / INSTALLED).is_file():
        yield INSTALLED
    note_installed(root)
    if not (root / ".dvc").is_dir():
        _init_dvc(root, inside)
        yield ".dvc"
    for name in outdated(root):
        notify(
            f"{name} is not what this version of quee writes, and stays: move it away and repeat `quee init` to take the new one"
        )


def _init_dvc(root: Path, inside: str | None) -> None:
    from tasks.dvc.process import run_dvc

    place = ["--no-scm"] if inside is None else ["--subdir"] if inside.strip() else []
    done = run_dvc(root, "init", "--quiet", *place)
    if done.status:
        raise QueeError(f"DVC could not be set up in {root}: {done.reason}")
    settings, file = configparser.ConfigParser(), root / ".dvc" / "config"
    settings.read(file, encoding="utf-8")
    settings.read_dict({"core": DVC_SETTINGS})
    with file.open("w", encoding="utf-8") as opened:
        settings.write(opened)


def _call_git(root: Path, *arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QueeError(f"git {arguments[0]} failed in {root}: {' '.join(done.stderr.split())}")


def _is_ours(file: Path) -> bool:
    """Whether a dvc.yaml is one of quee's: it has stage `settings`."""
    return "python -m tasks.settings" in json.dumps(_stages(file).get("settings", {}))


def _stages(file: Path) -> dict[str, object]:
    found = _yaml(file).get("stages")
    return found if isinstance(found, dict) else {}


def _yaml(file: Path) -> dict[str, object]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
