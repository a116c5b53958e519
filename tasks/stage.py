"""Common part of all stages: `python -m tasks.STAGE EXPERIMENT [--limit N] [--debug]`.

A stage writes `artifacts/EXPERIMENT/STAGE/` whole or not at all: it works in a folder aside, which replaces the previous
result when the stage succeeds. A stage has one writer at a time, which ends with the process that started it.
"""

import argparse
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from quee.errors import PLACES, IntegrityError, QueeError, UsageError
from quee.work.reach import may_pass
from tasks import partial
from tasks.dvc.healing import keep_last_good
from tasks.dvc.lock import stage_names
from tasks.resolved import changed_since, stage_settings
from tasks.stages import SETTINGS
from tasks.work import journal
from tasks.work.lifeline import die_with_parent
from tasks.work.locks import exclusive
from tasks.work.space import check_space

if TYPE_CHECKING:
    from quee.settings.experiment import Experiment

SMOKE = Path(".quee") / "smoke"
INTERRUPTED = 130


@dataclass(frozen=True)
class Stage:
    """One running stage of one experiment."""

    name: str
    experiment: "Experiment"
    out: Path
    """An empty folder, which becomes `artifacts/EXPERIMENT/STAGE` on success."""
    artifacts: Path
    """Folder of the experiment's results."""
    limit: int | None = None
    """In a smoke run, the number of samples to use; else None."""
    on_success: list[Callable[[], None]] = field(default_factory=list)
    """Functions to call once the result is in its place, such as the removal of resumable work."""

    @property
    def data(self) -> Path:
        """The data set's folder."""
        return Path("data") / self.experiment.prepare.dataset

    def input(self, stage: str) -> Path:
        """Folder with the result of an earlier stage; raises IntegrityError where there is none."""
        folder = self.artifacts / stage
        if not folder.is_dir():
            raise IntegrityError(f"missing folder: {folder} (the result of stage {stage!r}; `quee run` makes it)")
        return folder

    @cached_property
    def partial(self) -> Path:
        """Folder for resumable work: kept after kills while code, settings and data stay the same, and removed on success."""
        digest = partial.stage_digest(self.name, self.experiment.name, self.artifacts, self.limit)
        folder = partial.PARTIAL / self.name / digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def main(run: Callable[[Stage], None], arguments: list[str] | None = None) -> None:
    """Run a stage from its command line and exit with its status; the stage has the name of its module."""
    name = Path(inspect.getfile(run)).stem
    options = _parse(name, run, arguments)
    die_with_parent()
    try:
        run_stage(name, run, options.experiment, options.limit)
        status = 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        print(explain(error, f"python -m tasks.{name} {options.experiment}"), file=sys.stderr)
        status = exit_status(error)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def explain(error: BaseException, command: str = "python -m tasks.STAGE EXPERIMENT") -> str:
    """One line on an error: a QueeError's message, the fault of a disk or folder, or another error's type and message."""
    if isinstance(error, QueeError):
        return str(error)
    if isinstance(error, OSError) and error.errno in PLACES:
        where = error.filename or Path.cwd()
        return f"failed: {error.strerror}: {where} (what is finished is kept: put it right and run the same command)"
    detail = " ".join(str(error).split()) or "no message"
    return f"failed: {type(error).__name__}: {detail} (`{command} --debug` shows where)"


def exit_status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_status if isinstance(error, QueeError) else 1


def artifacts_of(experiment: str, limit: int | None = None) -> Path:
    """Folder of an experiment's results; a smoke run has its own."""
    return Path("artifacts") / experiment if limit is None else SMOKE / f"{experiment}-{limit}"


def run_stage(name: str, run: Callable[[Stage], None], experiment: str, limit: int | None = None) -> None:
    """Run a stage under its lock; its result replaces the previous one when it succeeds.

    Raises UsageError for a bad name or settings before anything is created.
    """
    from quee.settings.experiment import load_experiment

    artifacts = artifacts_of(experiment, limit)
    loaded = load_experiment(experiment) if name == SETTINGS else stage_settings(experiment, artifacts)
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: give a number of samples from 1")
    if name != SETTINGS and (changed := changed_since(experiment, artifacts)):
        print(
            f"stage {name} runs with the settings in {artifacts / SETTINGS}; experiments/{experiment}.yaml was changed since: "
            f"{changed}",
            file=sys.stderr,
        )
    with exclusive(f"{artifacts.name}.{name}", f"stage {name} of {artifacts.name}"):
        if limit is None:
            keep_last_good(Path())
        record = journal.begin(experiment, name, limit)
        pages = journal.JOURNAL if limit is None else artifacts / "journal"
        try:
            with _aside(artifacts / name) as out:
                stage = Stage(name, loaded, out, artifacts, limit)
                check_space(stage)
                with threadpool_limits(1, user_api="blas"):  # for small products, waiting for other threads costs more
                    run(stage)
                size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record["may_pass"] = may_pass(error)
            journal.finish(pages, record, status, exit_status=exit_status(error), error=explain(error))
            raise
        if "partial" in stage.__dict__:
            partial.discard(stage.partial)
        for act in stage.on_success:
            try:
                act()
            except QueeError as error:  # the result is in its place
                print(f"stage {name}: {error}", file=sys.stderr)
        journal.finish(pages, record, "done", bytes=size)
        if limit is None:
            journal.summarise(Path(), experiment, stage_names(Path()))


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """An empty folder that replaces `target` when the block ends without error. The caller holds the lock."""
    aside, before = (target.with_name(f".{target.name}.{which}") for which in ("aside", "before"))
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if not any(aside.iterdir()):
            raise IntegrityError(f"stage {target.name!r} wrote nothing")
        if target.exists():  # never under DVC, which removes a result before its stage runs
            target.rename(before)  # a reader misses the result for two renames, not for its removal
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _parse(name: str, run: Callable[[Stage], None], arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{name}", description=inspect.getdoc(run))
    parser.add_argument("experiment", help="name of a file experiments/NAME.yaml")
    parser.add_argument("--limit", type=int, metavar="N", help="smoke run on N samples, into .quee/smoke/EXPERIMENT-N")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser.parse_args(arguments)
