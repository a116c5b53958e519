"""What would run, be restored or stay, and why. Part of tasks/dvc.py."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quee.errors import BusyError, IntegrityError, QueeError
from quee.io import write_json
from tasks import journal

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

Action = Literal["run", "restore", "unchanged"]
PIPELINE = "dvc.yaml"
LISTINGS = Path(".quee") / "last-good" / "folders"


@dataclass
class Step:
    """One stage of one experiment, and what is to be done about it."""

    experiment: str
    stage: str
    action: Action
    reasons: list[str] = field(default_factory=list)
    seconds: float | None = None
    """What it took last time it ran here; None when it never did."""
    bytes: int | None = None
    """Size of its last result."""
    file: str = PIPELINE
    """The dvc.yaml that has the stage."""

    @property
    def name(self) -> str:
        return f"{self.stage}@{self.experiment}"

    @property
    def target(self) -> str:
        """What DVC is told to run."""
        return self.name if self.file == PIPELINE else f"{self.file}:{self.name}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def opened(root: Path) -> "Iterator[Repo]":
    """The repository under DVC's lock. Raises BusyError while another DVC has it, QueeError when it cannot be read."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        repo = Repo(str(root))
        with repo.lock:
            yield repo
    except LockError as error:
        raise BusyError(f"DVC is at work here: {' '.join(str(error).split())}") from None
    except DvcException as error:
        raise QueeError(" ".join(str(error).split())) from None


def make_plan(
    root: Path,
    experiments: list[str],
    force: bool = False,
    data: dict[str, Path] | None = None,
    file: str = PIPELINE,
    only: Collection[str] | None = None,
) -> list[Step]:
    """A step for every stage of the experiments in a dvc.yaml, or `only` those named, in the order in which they run.

    `data` names folders by the `.dvc` file that records them; raises IntegrityError on one that differs.
    """
    with opened(root) as repo:
        for pointer, folder in (data or {}).items():
            _check_data(root, repo, pointer, folder)
        found = [stage for stage in repo.index.stages if stage.path_in_repo == file]
        stages = [stage for stage in found if "@" in (getattr(stage, "name", None) or "")]
        stages = [stage for stage in stages if only is None or stage.name.partition("@")[0] in only]
        planner = _Planner(root, repo, force)
        by_experiment = {name: [s for s in stages if s.name.partition("@")[2] == name] for name in experiments}
        steps = [planner.step(stage) for name in experiments for stage in by_experiment[name]]
    for step in steps:
        step.file = file
        _estimate(root, step)
    return steps


def _check_data(root: Path, repo: "Repo", pointer: str, folder: Path) -> None:
    outs = (out for out in repo.index.outs if out.stage.path_in_repo == pointer and str(out) == folder.as_posix())
    out = next(outs, None)
    if out is None or not out.workspace_status():
        return
    tree = out.get_obj() if out.hash_info.isdir else None
    recorded = {} if tree is None else {"/".join(key): digest.value for key, _, digest in tree}
    here = listing(root / folder)
    differing = sorted(name for name in {*recorded, *here} if recorded.get(name) != here.get(name))
    named = bool(recorded and differing)
    what = f"{folder}/{differing[0]}" if named else str(folder)
    fault = "is missing" if named and differing[0] not in here else f"differs from what {pointer} records"
    remedy = f"`dvc checkout {pointer}` brings back what it was, `dvc add {folder}` accepts what is there"
    raise IntegrityError(f"{what} {fault}; {remedy}")


def _estimate(root: Path, step: Step) -> None:
    done = [
        r
        for r in journal.records(root)
        if (r.get("experiment"), r.get("stage"), r.get("status")) == (step.experiment, step.stage, "done")
    ]
    if done:
        step.seconds = done[-1].get("seconds")
        step.bytes = done[-1].get("bytes", step.bytes)


class _Planner:
    """Goes through the stages in order and carries on what happens to their results."""

    def __init__(self, root: Path, repo: "Repo", force: bool) -> None:
        self.root, self.repo, self.force = root, repo, force
        self.anew: dict[str, str] = {}
        """Results that will be made anew: path to the stage's name."""
        self.restored: dict[str, Any] = {}
        """Results that will be restored: path to their digest."""

    def step(self, stage: "Stage") -> Step:
        name, _, experiment = stage.name.partition("@")
        reasons = [reason for dep in stage.deps for reason in self._changes(dep)]
        if stage.cmd_changed:
            reasons.insert(0, "command: differs from the last run")
        missing = [] if reasons else [f"{out}: {state}" for out in stage.outs for state in out.status().values()]
        waits = any(str(dep) in self.anew for dep in stage.deps)
        step = Step(experiment, name, "unchanged", reasons or missing)
        if self.force:
            step.action, step.reasons = "run", reasons or ["forced"]
        elif reasons or missing:
            outs = None if waits else self._cached(stage)
            step.action = "run" if outs is None else "restore"
            self.restored.update(outs or {})
            if len(step.reasons) == 1 and not stage.outs[0].hash_info:
                step.reasons = ["never ran"]
        if step.action == "run":
            self.anew.update({str(out): stage.name for out in stage.outs})
        step.bytes = sum(out.meta.size or 0 for out in stage.outs) or None
        if not any(out.hash_info for out in stage.outs):
            step.reasons = ["never ran"]
        return step

    def _changes(self, dep: Any) -> list[str]:
        from dvc.dependency.param import ParamsDependency

        path = str(dep)
        if isinstance(dep, ParamsDependency):
            return self._settings(dep)
        if path in self.anew:
            return [f"{path}: made anew by {self.anew[path]}"]
        if path in self.restored:
            return [] if self.restored[path] == dep.hash_info else [f"{path}: restored to another version"]
        state = dep.status().get(path)
        if state is None:
            return []
        if dep.isdir() and state == "modified":
            return self._files(path, dep.hash_info.value)
        kind = {"deleted": "missing", "new": "not there at the last run"}.get(str(state), str(state))
        return [f"{path}: {kind}"]

    def _settings(self, dep: Any) -> list[str]:
        if not dep.workspace_status():
            return []
        before = dep.hash_info.value if dep.hash_info else {}
        now = dep.read_params(flatten=False)
        return [f"{name}: {_shown(old)} → {_shown(new)}" for name, old, new in differences(before or {}, now)]

    def _files(self, folder: str, digest: str) -> list[str]:
        """Which files of a folder differ from its last run, as far as its listing was kept."""
        now = listing(self.root / folder)
        try:
            before: dict[str, str] = json.loads((self.root / LISTINGS / f"{digest}.json").read_text())
        except (OSError, ValueError):
            return [f"{folder}: modified"]
        found = []
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                state = "new" if name not in before else "removed" if name not in now else "modified"
                found.append(f"{folder}/{name}: {state}")
        return found or [f"{folder}: modified"]

    def _cached(self, stage: "Stage") -> dict[str, Any] | None:
        """The results that DVC would restore from its run cache instead of running the stage."""
        from dvc.dependency.base import DependencyDoesNotExistError

        if not any(out.hash_info for out in stage.outs) and not (self.root / ".dvc" / "cache" / "runs").is_dir():
            return None
        try:
            for dep in stage.deps:
                if str(dep) in self.restored:
                    dep.hash_info = restored = self.restored[str(dep)]
                    dep.get_hash = lambda restored=restored: restored  # what DVC would look up may not be there yet
                else:
                    dep.save()
        except DependencyDoesNotExistError:
            return None
        cache = self.repo.stage_cache._load(stage)
        if not cache:
            return None
        stored = self.repo.stage_cache._create_stage(cache, wdir=stage.wdir)
        return {str(out): out.hash_info for out in stored.outs} if stored.outs_cached() else None


def differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every setting that differs; None stands for one that is not there."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now and type(before) is type(now) else [(name, before, now)]
    keys = dict.fromkeys((*before, *now))
    found = (differences(before.get(k), now.get(k), f"{name}.{k}" if name else str(k)) for k in keys)
    return [difference for differing in found for difference in differing]


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def listing(folder: Path) -> dict[str, str]:
    """MD5 of every file of a folder of code by its name inside, as DVC lists it."""
    found = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            file = Path(where) / name
            digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            found[file.relative_to(folder).as_posix()] = digest
    return found


def remember_folders(root: Path, folders: list[str]) -> None:
    """Keep the listings of folders of code, so that a later plan can name the file that differs."""
    for folder in folders:
        files = listing(root / folder)
        records = [{"md5": files[name], "relpath": name} for name in sorted(files)]
        digest = hashlib.md5(json.dumps(records, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        target = root / LISTINGS / f"{digest}.dir.json"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_json(target, files)
