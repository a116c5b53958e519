"""The checks of `quee doctor`."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from quee.errors import QueeError
from quee.work.counts import counted
from quee.work.keys import ABSENT, installed
from tasks.dvc.lock import git

PACKAGES = ("torch", "timm", "pyarrow", "dvc", "prefect", "mlflow")
ENGINES = ("openvino", "onnxruntime")
"""What executes bundles faster than PyTorch; a run does without."""
FREE_BYTES = 2e9


@dataclass(frozen=True)
class Finding:
    check: str
    ok: bool
    detail: str


def examine(root: Path) -> list[Finding]:
    """All checks, from the basic ones on."""
    checks: dict[str, Callable[[Path], str]] = {
        "python": _python,
        "packages": _packages,
        "git": _git,
        "settings": _settings,
        "machine": _machine,
        "locks": _locks,
        "data": _data,
        "disk": _disk,
    }
    return [_check(name, check, root) for name, check in checks.items()]


def _check(name: str, check: Callable[[Path], str], root: Path) -> Finding:
    try:
        return Finding(name, True, check(root))
    except QueeError as error:
        return Finding(name, False, str(error))


def _machine(root: Path) -> str:
    """The settings of the machine, which a run would refuse."""
    from tasks.scale import FILE, read_scale

    scale = read_scale(file=root / FILE)
    scale.refuse_absent()
    return f"{scale.executor}, {counted(scale.workers, 'worker')}, device {scale.wanted[0]}"


def _python(root: Path) -> str:
    return f"{sys.version.split()[0]} at {sys.executable}, {counted(os.cpu_count() or 1, 'core')}"


def _packages(root: Path) -> str:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise QueeError(f"missing: {', '.join(missing)} (`make install`, or pip install 'quee[pipeline]')")
    engines = [f"{name} {installed(name)}" for name in ENGINES if installed(name) != ABSENT]
    return ", ".join(found + (engines or ["no faster engine than torch (pip install 'quee[engines]')"]))


def _git(root: Path) -> str:
    if shutil.which("git") is None:
        raise QueeError("git is not installed; DVC needs it")
    if git(root, "rev-parse", "--git-dir") is None:
        return "no git repository here: results are kept without the commit they were made at"
    return "found"


def _settings(root: Path) -> str:
    from quee.settings.experiment import load_experiment
    from quee.settings.names import experiment_names
    from tasks.dvc.experiments import refuse_other_paths
    from tasks.dvc.project import outdated
    from tasks.dvc.session import checked

    folder = root / "experiments"
    known = {name: load_experiment(name, folder) for name in experiment_names(folder)}
    listed = checked(root, None)
    for name in listed:
        refuse_other_paths(root, known[name])
    builds = ", ".join(listed) or "none yet (`quee start IMAGES` makes one)"
    if old := outdated(root):
        raise QueeError(f"{', '.join(old)}: not what this version of quee writes; move it away and call `quee init`")
    return f"valid: {counted(len(known), 'experiment')}; params.yaml builds {builds}"


def _locks(root: Path) -> str:
    from tasks.dvc.healing import heal
    from tasks.work.locks import exclusive

    told: list[str] = []
    with exclusive("run", "this checkout", root=root, wait=False):
        heal(root, told.append)
    return "; ".join(told) or "nothing left by a killed run"


def _data(root: Path) -> str:
    from tasks.dvc.inputs import ensure_inputs
    from tasks.dvc.session import checked, make_plan

    told: list[str] = []
    names = checked(root, None)
    make_plan(root, names, data=ensure_inputs(root, names, told.append))
    return "; ".join(told) or f"as recorded, for {', '.join(names) or 'no experiment'}"


def _disk(root: Path) -> str:
    free = shutil.disk_usage(root).free
    work = sum(f.stat().st_size for f in (root / ".quee").rglob("*") if f.is_file())
    if free < FREE_BYTES:
        raise QueeError(
            f"{free / 1e9:.1f} GB free; {FREE_BYTES / 1e9:.0f} GB are recommended (`dvc gc -w` frees old results)"
        )
    return f"{free / 1e9:.0f} GB free; .quee holds {work / 1e6:.0f} MB of logs and unfinished work"
