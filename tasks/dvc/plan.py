"""The plan of a run: whether each stage runs, is restored, or is unchanged, and why."""

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quee.errors import BusyError, IntegrityError, QueeError
from tasks.dvc import dependencies
from tasks.dvc.lock import listing
from tasks.resolved import as_text, differences, settings_file
from tasks.stages import SETTINGS
from tasks.work import journal

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

Action = Literal["run", "restore", "unchanged"]
PIPELINE = "dvc.yaml"
STATES = {"deleted": "missing", "new": "not there at the last run"}
"""DVC's words for a differing dependency, translated to ours."""
SAID = 3
"""Most reasons of a stage's own in a line."""
ANEW = ": made anew by "
"""Between a result and the stage that an earlier step of the same run makes it by."""


@dataclass
class Step:
    """One stage of one experiment, and what a run does with it."""

    experiment: str
    stage: str
    action: Action
    reasons: list[str] = field(default_factory=list)
    seconds: float | None = None
    """Time of its last run here; None where it never ran here."""
    bytes: int | None = None
    """Size of its last result."""
    file: str = PIPELINE
    """The dvc.yaml that defines the stage."""

    @property
    def name(self) -> str:
        return f"{self.stage}@{self.experiment}"

    @property
    def why(self) -> str:
        """The reasons in a line: the first of the stage's own, then the stages whose results are made anew, by their names."""
        own = [reason for reason in self.reasons if ANEW not in reason]
        before = [reason.rpartition(ANEW)[2].partition("@")[0] for reason in self.reasons if ANEW in reason]
        said = own if len(own) <= SAID else [*own[: SAID - 1], f"{len(own) - SAID + 1} more"]
        return "; ".join([*said, *([f"new results of {', '.join(before)}"] if before else [])])

    @property
    def target(self) -> str:
        """The stage's name on DVC's command line."""
        return self.name if self.file == PIPELINE else f"{self.file}:{self.name}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def opened(root: Path) -> "Iterator[Repo]":
    """The repository under DVC's lock. Raises BusyError while another DVC holds the lock, QueeError for other faults."""
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


@dataclass
class Plan:
    """The steps of a run, in order."""

    settings: list[Step]
    """Stage `settings` of experiments whose files of settings or digests are not up to date."""
    steps: list[Step]
    """All other stages."""


def make_plan(
    root: Path,
    experiments: list[str],
    force: bool = False,
    data: dict[str, Path] | None = None,
    file: str = PIPELINE,
    only: Collection[str] | None = None,
) -> Plan:
    """The steps of the experiments' stages in a dvc.yaml in the order of a run; with `only`, of these stages.

    Settings and digests of code are computed here, so stage `settings` need not have run. `data` maps a `.dvc` file to
    the path that it records. Raises IntegrityError for a path whose content differs, UsageError for wrong settings.
    """
    with opened(root) as repo:
        for pointer, folder in (data or {}).items():
            _check_data(root, repo, pointer, folder)
        planner = _Planner(root, repo, force)
        found = Plan([], [])
        for name in experiments:
            stages = [stage for stage in repo.index.stages if _experiment(stage) == name]
            resolving = [s for s in stages if s.path_in_repo == PIPELINE and _stage(s) == SETTINGS]
            found.settings += [
                step for stage in resolving if (step := planner.settings_step(stage)).action != "unchanged"
            ]
            own = [s for s in stages if s.path_in_repo == file and s not in resolving]
            found.steps += [planner.step(stage) for stage in own if only is None or _stage(stage) in only]
    _estimate(root, found.steps)
    for step in found.steps:
        step.file = file
    return found


def _stage(stage: "Stage") -> str:
    return str(getattr(stage, "name", None) or "").partition("@")[0]


def _experiment(stage: "Stage") -> str:
    return str(getattr(stage, "name", None) or "").partition("@")[2]


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


def _estimate(root: Path, steps: list[Step]) -> None:
    done = journal.latest(root, [(step.experiment, step.stage) for step in steps], status="done")
    for step in steps:
        if record := done.get((step.experiment, step.stage)):
            step.seconds = record.get("seconds")
            step.bytes = record.get("bytes", step.bytes)


class _Planner:
    """Plans the stages one by one, in order, and remembers which results will change."""

    def __init__(self, root: Path, repo: "Repo", force: bool) -> None:
        self.root, self.repo, self.force = root, repo, force
        self.anew: dict[str, str] = {}
        """Path of every result that a run makes anew, and the name of its stage."""
        self.restored: dict[str, Any] = {}
        """Path of every result that a run restores, and its digest."""
        self.resolved: dict[str, dict[str, Any]] = {}
        """By path, the contents of the files of settings and digests after stage `settings`."""
        self.given: dict[str, dict[str, Any]] = {}
        """By path of the file of settings, the settings that the YAML sets itself."""

    def settings_step(self, stage: "Stage") -> Step:
        """Plan stage `settings`: it runs where the contents of its files are not up to date."""
        from quee.settings.experiment import load_experiment, read_content, resolved

        name, folder = _experiment(stage), self.root / "experiments"
        experiment, source = load_experiment(name, folder), folder / f"{name}.yaml"
        settings_at, code_at = settings_file(name), dependencies.code_file(name)
        self.given[settings_at] = read_content(source.read_text(encoding="utf-8"), str(source))
        reasons = [reason for dep in stage.deps for reason in self._changes(dep)]
        reasons += [f"{out}: {state}" for out in stage.outs for state in out.status().values()]
        if not reasons and (self.root / settings_at).read_text(encoding="utf-8") != as_text(experiment):
            reasons.append(f"{settings_at}: not what the settings are now")
        if reasons or stage.cmd_changed:
            code = dependencies.code_of(self.root, experiment.backbone.name)
        else:  # DVC compares the code with its state when the stage ran
            code = json.loads((self.root / code_at).read_text(encoding="utf-8"))
        self.resolved |= {settings_at: resolved(experiment), code_at: code}
        return Step(name, SETTINGS, "run" if reasons or stage.cmd_changed else "unchanged", reasons)

    def step(self, stage: "Stage") -> Step:
        name, _, experiment = stage.name.partition("@")
        own_first = sorted(stage.deps, key=lambda dep: str(dep) in self.anew)
        reasons = [reason for dep in own_first for reason in self._changes(dep)]
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
            return [f"{path}{ANEW}{self.anew[path]}"]
        if path in self.restored:
            return [] if self.restored[path] == dep.hash_info else [f"{path}: restored to another version"]
        return [f"{path}: {STATES.get(state, state)}" for state in dep.status().values()]

    def _settings(self, dep: Any) -> list[str]:
        path = str(dep)
        before = dep.hash_info.value if dep.hash_info else None
        if path in self.resolved:
            now = self._parameters(dep)
            if before is None:
                return [f"{path}: not there at the last run"]
        elif dep.workspace_status():
            now = dep.read_params(flatten=False)
        else:
            return []
        return [self._shown(path, *difference) for difference in differences(before or {}, now)]

    def _parameters(self, dep: Any) -> dict[str, Any]:
        """The stage's part of a file of stage `settings`, as a run will write it."""
        content = self.resolved[str(dep)]
        return {block: content[block] for block in dep.params if block in content}

    def _shown(self, path: str, name: str, old: Any, new: Any) -> str:
        from quee.settings.experiment import is_given

        if path.endswith(f"/{dependencies.NAME}"):
            file = name.partition(".")[2]  # after the stage's name
            return f"{file}: {'new' if old is None else 'no longer used' if new is None else 'modified'}"
        default = path in self.given and new is not None and not is_given(self.given[path], name)
        return f"{name}: {_text(old)} → {_text(new)}{' (default)' if default else ''}"

    def _cached(self, stage: "Stage") -> dict[str, Any] | None:
        """The results that DVC would restore from its run cache instead of running the stage."""
        from dvc.dependency.base import DependencyDoesNotExistError
        from dvc_data.hashfile.hash_info import HashInfo

        if not any(out.hash_info for out in stage.outs) and not (self.root / ".dvc" / "cache" / "runs").is_dir():
            return None
        try:
            for dep in stage.deps:
                if str(dep) in self.restored:
                    _foresee(dep, self.restored[str(dep)])
                elif str(dep) in self.resolved:
                    _foresee(dep, HashInfo("params", self._parameters(dep)))  # type: ignore[arg-type]
                else:
                    dep.save()
        except DependencyDoesNotExistError:
            return None
        cache = self.repo.stage_cache._load(stage)
        if not cache:
            return None
        stored = self.repo.stage_cache._create_stage(cache, wdir=stage.wdir)
        return {str(out): out.hash_info for out in stored.outs} if stored.outs_cached() else None


def _foresee(dep: Any, found: Any) -> None:
    """Set the digest of a dependency in DVC, because its file may not exist yet. DVC has no public interface for this."""
    dep.hash_info = found
    dep.get_hash = lambda: found


def _text(value: Any) -> str:
    return "none" if value is None else json.dumps(value)
