"""Runs of the pipeline by DVC: which stages are stale and why, and running them one by one.

`quee run` and the Prefect flow both use a `session`. It takes the checkout's lock, repairs what killed runs left, and
asks DVC once which stages are stale. `execute` then runs one stage.
"""

import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from quee.errors import BusyError, QueeError, UsageError
from tasks.dvc.experiments import listed_experiments, put_right
from tasks.dvc.healing import heal, keep_last_good, under_way
from tasks.dvc.inputs import ensure_inputs, refuse_not_pulled
from tasks.dvc.lock import stage_names
from tasks.dvc.plan import PIPELINE, opened
from tasks.dvc.plan import Step as Step
from tasks.dvc.plan import make_plan as make_plan
from tasks.dvc.process import AWAY, BUSY, dvc_command, environment, run_dvc, run_logged
from tasks.dvc.project import note_installed
from tasks.partial import stage_entry
from tasks.requirements import refuse_unworkable
from tasks.stages import SETTINGS
from tasks.work import journal
from tasks.work.locks import exclusive, say
from tasks.work.words import last_words

LOGS = Path(".quee") / "logs"
LAST_LINES = 15
RETRY_SECONDS = 2.0
INTERRUPTED = 130

Did = Literal["ran", "restored", "unchanged"]
T = TypeVar("T")


class StageError(QueeError):
    """A stage failed. The exit status, and whether the failure may pass, are the stage's own."""

    def __init__(self, message: str, status: int, may_pass: bool = False) -> None:
        super().__init__(message)
        self.exit_status, self.may_pass = status, may_pass


@dataclass(frozen=True)
class Outcome:
    """The result of one stage."""

    experiment: str
    stage: str
    did: Did
    seconds: float
    log: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.stage}@{self.experiment}"


@dataclass
class Session:
    """A run of some experiments; it holds the checkout's lock."""

    root: Path
    steps: list[Step]
    force: bool
    wait: bool
    notify: Callable[[str], None]
    show: Callable[[str], None] | None
    """Called with each line of the stages' own output; None leaves it to the log."""
    _ran: bool = False

    def settle(self, settings: list[Step]) -> None:
        """Run stage `settings` where needed; the other stages take their parameters from its files. Raises StageError."""
        for step in settings:
            log = _log_file(self.root, step)
            began, was_here = time.time(), _out(self.root, step).exists()
            with under_way(self.root, step.name, self.notify):
                status = self._dvc_repro(step, log, force=True, show=None)
            if status:
                record = journal.last(self.root, step.experiment, step.stage, began)
                raise self._failure(step, log, record, status, was_here)
            log.unlink()
            keep_last_good(self.root)
            self._ran = True  # the plan only foresaw the files; DVC now compares the real ones

    def execute(self, step: Step) -> Outcome:
        """Bring one stage up to date. Raises StageError naming the stage and its log; earlier results stay."""
        if step.action == "unchanged" and not self._ran:
            return Outcome(step.experiment, step.stage, "unchanged", 0.0)
        began, log, before = time.time(), _log_file(self.root, step), _state(self.root, step)
        was_here = _out(self.root, step).exists()
        try:
            with under_way(self.root, step.name, self.notify):
                status = self._dvc_repro(step, log, self.force, self.show)
        except BaseException:
            restore_result(self.root, step)
            raise
        record = journal.last(self.root, step.experiment, step.stage, began)
        if status:
            raise self._failure(step, log, record, status, was_here)
        keep_last_good(self.root)
        did: Did = "ran" if record else "restored" if _state(self.root, step) != before else "unchanged"
        if did == "restored" and (damaged := _remove_damaged(self.root, step)):
            shutil.rmtree(_out(self.root, step))
            files = ", ".join(str(_short(self.root, file)) for file in damaged[:3])
            self.notify(f"{step.name}: DVC's cache was damaged ({files}): removed; the stage is run again")
            return self.execute(step)
        self._ran = self._ran or did != "unchanged"
        if did == "unchanged":
            log.unlink()
        return Outcome(step.experiment, step.stage, did, time.time() - began, log if did == "ran" else None)

    def _dvc_repro(self, step: Step, log: Path, force: bool, show: Callable[[str], None] | None) -> int:
        arguments = ["repro", "--single-item", step.target, *(["--force"] if force else [])]

        def act() -> int:
            status = run_logged(dvc_command(*arguments), log, self.root, environment(), show)
            if status == BUSY:
                raise BusyError(f"stage {step.name}: another DVC is at work here (see {_short(self.root, log)})")
            return status

        return _wait_for(act, self.wait, self.notify)

    def _failure(
        self, step: Step, log: Path, record: dict[str, object] | None, status: int, was_here: bool
    ) -> BaseException:
        text = log.read_text(encoding="utf-8", errors="replace")
        lost = restore_result(self.root, step)
        code = record.get("exit") if record else None
        if code == INTERRUPTED:
            return KeyboardInterrupt()
        if record and record.get("error"):
            why = str(record["error"])
        else:  # DVC itself failed, or the stage could not even write its journal, as on a full disk
            failed = [line for line in text.splitlines() if line.startswith("failed: ")]
            why = (
                failed[-1] if failed else last_words(text) or f"ended without a word (status {status}), perhaps killed"
            )
        lines = [line for line in text.splitlines() if line.strip()]
        tail = "" if self.show else "".join(f"\n  | {line}" for line in lines[-LAST_LINES:])
        message = f"stage {step.name} failed: {why}{lost if was_here else ''}\nlog: {_short(self.root, log)}{tail}"
        passes = bool(record.get("may_pass")) if record else status == AWAY
        return StageError(message, code if isinstance(code, int) and code else 1, passes)


@contextmanager
def session(
    root: Path,
    experiments: list[str] | None = None,
    *,
    force: bool = False,
    wait: bool = True,
    show: Callable[[str], None] | None = None,
    notify: Callable[[str], None] = say,
    file: str = PIPELINE,
    stages: Collection[str] | None = None,
) -> Iterator[Session]:
    """Hold the checkout for a run of the experiments (all of params.yaml by default).

    Every YAML, data set and file of weights is checked before anything is created; raises UsageError, or IntegrityError
    with the files to get. With `wait` the session waits for another run, else it raises BusyError. `show` is called with
    each line of the stages' output. `stages` restricts the run to some stages. Data and weights are not needed where no
    stage reads them, as in a `file` other than the pipeline's, whose stages read only results.
    """
    names = chosen(root, experiments)
    with exclusive("run", "this checkout", root=root, wait=wait, notify=notify):
        _wait_for(lambda: heal(root, notify), wait, notify)
        data = ensure_inputs(root, names, notify) if file == PIPELINE and _read_inputs(root, stages) else {}
        put_right(root, names, notify)
        note_installed(root)
        found = _wait_for(lambda: make_plan(root, names, force, data, file, stages), wait, notify)
        if file == PIPELINE:
            refuse_unworkable(root, found.steps)
        started = Session(root, found.steps, force, wait, notify, show)
        started.settle(found.settings)
        yield started


def _read_inputs(root: Path, stages: Collection[str] | None) -> bool:
    """Whether any of the given stages, or of all, reads data sets or weights."""
    return stages is None or any(
        "${item." in dep for stage in stages for dep in stage_entry(root, stage, "").get("deps", [])
    )


def plan(root: Path, experiments: list[str] | None = None, force: bool = False) -> list[Step]:
    """The plan of a run. It changes nothing except for repairs after killed runs and wrong paths in params.yaml."""
    names = chosen(root, experiments)
    missing = [name for name in names if name not in listed_experiments(root)]
    if missing:
        raise UsageError(f"experiment {missing[0]!r} is not in params.yaml; `quee run {missing[0]}` adds it")
    refuse_not_pulled(root, names)
    with exclusive("run", "this checkout", root=root):
        heal(root, say)
        put_right(root, names, say)
        note_installed(root)
        steps = make_plan(root, names, force).steps
    refuse_unworkable(root, steps)
    return steps


def chosen(root: Path, experiments: list[str] | None) -> list[str]:
    """Like `checked`; raises UsageError where that is no experiment at all."""
    names = checked(root, experiments)
    if not names:
        raise UsageError("params.yaml lists no experiment; `quee start IMAGES` makes one, `quee run NAME` adds one")
    return names


def checked(root: Path, experiments: list[str] | None) -> list[str]:
    """The experiments to run, after a check of their files and those of every experiment in params.yaml."""
    from quee.settings.experiment import load_experiment

    listed = listed_experiments(root)
    names = list(dict.fromkeys(experiments or listed))
    for name in listed:
        if not (root / "experiments" / f"{name}.yaml").is_file():
            raise UsageError(
                f"params.yaml lists experiment {name!r}, but there is no experiments/{name}.yaml: remove the entry or "
                "bring the file back"
            )
    for name in dict.fromkeys([*names, *listed]):
        load_experiment(name, root / "experiments")
    return names


def restore_result(root: Path, step: Step) -> str:
    """Restore the last result of a stage that failed, because DVC removes results before it runs a stage.

    Returns the reason of a failure, or an empty string.
    """
    if _out(root, step).exists() or not step.bytes:
        return ""
    done = run_dvc(root, "checkout", step.target)
    return f"; its earlier result could not be brought back: {done.reason}" if done.status else ""


def _out(root: Path, step: Step) -> Path:
    return root / "artifacts" / step.experiment / step.stage


def _state(root: Path, step: Step) -> object:
    """State of a stage: its entry in the lock file, and its files with their times. It differs after a restore."""
    try:
        entry = yaml.safe_load((root / step.file).with_suffix(".lock").read_text(encoding="utf-8"))["stages"][step.name]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        entry = None
    facts = [(path, path.lstat()) for path in sorted(_out(root, step).rglob("*"))]
    return entry, [(path, fact.st_ino, fact.st_size, fact.st_mtime_ns) for path, fact in facts]


def _remove_damaged(root: Path, step: Step) -> list[Path]:
    """Remove from DVC's cache the files of a result that are not as they were put there, which DVC trusts; what was removed."""
    entry = yaml.safe_load((root / step.file).with_suffix(".lock").read_text(encoding="utf-8"))["stages"][step.name]
    with opened(root) as repo:
        objects = [(Path(repo.cache.local.oid_to_path(out["md5"])), out["md5"]) for out in entry["outs"]]
        for path, digest in list(objects):
            if digest.endswith(".dir") and _is(path, digest):
                listed = json.loads(path.read_bytes())
                objects += [(Path(repo.cache.local.oid_to_path(own["md5"])), own["md5"]) for own in listed]
    damaged = [path for path, digest in objects if path.is_file() and not _is(path, digest)]
    for path in damaged:
        path.unlink()
    return damaged


def _is(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == digest.removesuffix(".dir")
    except FileNotFoundError:
        return False


def _log_file(root: Path, step: Step) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return root / LOGS / f"{stamp}-{step.experiment}-{step.stage}.log"


def _short(root: Path, file: Path) -> Path:
    return file.relative_to(root) if file.is_relative_to(root) else file


def _wait_for(act: Callable[[], T], wait: bool, notify: Callable[[str], None]) -> T:
    """Call a function that fails while another DVC is at work, and wait for that."""
    told = False
    while True:
        try:
            return act()
        except BusyError as error:
            if not wait:
                raise
            if not told:
                notify(f"{error}; waiting for it to end")
            told = True
            time.sleep(RETRY_SECONDS)


def smoke(
    root: Path,
    experiments: list[str] | None,
    limit: int,
    *,
    wait: bool = True,
    show: Callable[[str], None] | None = None,
    notify: Callable[[str], None] = say,
) -> Iterator[Outcome]:
    """Run every stage on a few samples, without DVC, into `.quee/smoke/EXPERIMENT-N/`; yields each result."""
    if limit < 1:
        raise UsageError(f"--limit {limit}: give a number of samples from 1")
    names = chosen(root, experiments)
    with exclusive("run", "this checkout", root=root, wait=wait, notify=notify):
        ensure_inputs(root, names, notify)
        stages = stage_names(root)
        for name in names:
            for stage in [SETTINGS, *stages]:
                step = Step(name, stage, "run")
                began, log = time.time(), _log_file(root, step)
                words = shlex.split(stage_entry(root, stage, name)["cmd"])
                command = [sys.executable, *words[1:], "--limit", str(limit)]
                if status := run_logged(command, log, root, environment(), show):
                    if status == INTERRUPTED:
                        raise KeyboardInterrupt
                    raise StageError(f"smoke run: stage {step.name} failed\nlog: {_short(root, log)}", status)
                if stage != SETTINGS:
                    yield Outcome(name, stage, "ran", time.time() - began, log)
