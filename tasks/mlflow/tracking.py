"""MLflow's memory of results: one run per distinct stage result and one per distinct experiment result.

A result is what `dvc.lock` records, however it came about. `track` makes the store hold each exactly once: it may be
called at any time, again, after an interruption, or twice at once.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from quee.errors import UnreachableError as UnreachableError
from quee.errors import UsageError
from tasks.dvc.lock import (
    ExperimentResult,
    StageResult,
    chosen,
    out_problem,
    read_ablations,
    read_lock,
    stage_names,
)
from tasks.mlflow.index import Held, held, sqlite_file, tracking_uri, unreachable
from tasks.work.words import shortened

if TYPE_CHECKING:
    from tasks.mlflow.store import Store

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""How MLflow is used, where the user has not said otherwise."""

ADVISORY = 0x71756565
"""Number of the lock taken in a PostgreSQL store: "quee"."""

PYFUNC = Path("quee/runtime/pyfunc.py")
"""Script by which MLflow loads a registered bundle."""


@dataclass
class Tracked:
    """What one `track` did."""

    logged: list[str] = field(default_factory=list)
    """Titles of the runs added, such as `digits/targets 3f2a91c`."""
    registered: list[str] = field(default_factory=list)
    """Model versions added, such as `quee-digits version 2`."""
    decided: dict[str, str] = field(default_factory=dict)
    """By model version added: whether it became champion, and why or why not."""
    known: int = 0
    """Results that were there already."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Results that could not be tracked, with the reason."""


@dataclass
class Pending:
    """What the store lacks; stages come before their experiments."""

    stages: list[StageResult] = field(default_factory=list)
    experiments: list[ExperimentResult] = field(default_factory=list)
    bundles: list[StageResult] = field(default_factory=list)
    known: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.stages or self.experiments or self.bundles)


def track(
    root: Path,
    experiments: list[str] | None = None,
    *,
    pyfunc: Path = PYFUNC,
    notify: Callable[[str], None] = lambda message: None,
) -> Tracked:
    """Make the store hold every result in `dvc.lock` that lies in `artifacts/`; of all experiments if none is named.

    `pyfunc` is the script registered with bundles; without that file none is registered. `notify` is told of waiting.
    Raises UnreachableError when the store does not take results, UsageError on an experiment without results.
    """
    results = chosen(read_lock(root), experiments)
    if not results:
        return Tracked()
    uri = tracking_uri(root)
    problem = cache(lambda result: out_problem(root, result))
    known = held(uri)
    if known is not None:
        pending = find_pending(root, results, known, pyfunc, problem)
        if not pending:
            return Tracked(known=pending.known, skipped=pending.skipped)
    with store_lock(root, uri, notify):
        store = open_store(root, uri)
        pending = find_pending(root, results, store.held(), pyfunc, problem)
        done = Tracked(known=pending.known, skipped=pending.skipped)
        for stage in pending.stages:
            store.log_stage(stage)
            done.logged.append(stage.title)
        for experiment in pending.experiments:
            store.log_experiment(experiment)
            done.logged.append(experiment.title)
        for bundle in pending.bundles:
            version, decision = store.register(bundle, pyfunc)
            done.registered.append(version)
            done.decided[version] = decision
    return done


def find_pending(
    root: Path,
    results: dict[str, ExperimentResult],
    known: Held,
    pyfunc: Path,
    problem: Callable[[StageResult], str | None],
) -> Pending:
    """What of `results` is not among the `known`; `problem` tells why a stage's files cannot be logged, if so."""
    expected = stage_names(root)
    pending = Pending()
    for name, result in results.items():
        lost: list[str] = []
        for stage in result.stages.values():
            if stage.digest in known.runs:
                pending.known += 1
            elif reason := problem(stage):
                pending.skipped[stage.name] = reason
                lost.append(stage.stage)
            else:
                pending.stages.append(stage)
        if result.digest in known.runs:
            pending.known += 1
        elif reason := result.unfinished(expected):
            pending.skipped[name] = reason
        elif lost:
            pending.skipped[name] = f"needs {', '.join(lost)}"
        elif reason := next(filter(None, map(problem, _read_by_experiment(result))), None):
            pending.skipped[name] = reason
        else:
            pending.experiments.append(result)
        if bundle := result.stages.get("bundle"):
            _find_bundle(root, bundle, known, pyfunc, problem, pending)
    for name, stage in read_ablations(root).items():
        if name not in results:
            continue
        if stage.digest in known.runs:
            pending.known += 1
        elif reason := problem(stage):
            pending.skipped[stage.name] = reason
        else:
            pending.stages.append(stage)
    return pending


def _read_by_experiment(result: ExperimentResult) -> list[StageResult]:
    return [stage for name, stage in result.stages.items() if name not in ("features", "bundle")]


def _find_bundle(
    root: Path,
    bundle: StageResult,
    known: Held,
    pyfunc: Path,
    problem: Callable[[StageResult], str | None],
    pending: Pending,
) -> None:
    if (model_name(bundle.experiment), bundle.outs.get(bundle.folder, "")) in known.bundles:
        return
    if not (root / pyfunc).is_file():
        pending.skipped[f"model {model_name(bundle.experiment)}"] = f"not registered: {pyfunc} is not here"
    elif bundle.name not in pending.skipped and not problem(bundle):
        pending.bundles.append(bundle)


def model_name(experiment: str) -> str:
    """Name of an experiment's bundle in the model registry."""
    return f"quee-{experiment}"


@contextmanager
def store_lock(root: Path, uri: str, notify: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """One writer at a time: beside a SQLite store and in a PostgreSQL one, so that checkouts sharing it take turns.

    Of a store behind a server only this checkout is kept; there `Store` clears up after two that met.
    """
    file = sqlite_file(uri)
    path = file.with_name(f"{file.name}.lock") if file else root / ".quee" / "locks" / "tracking.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        notify("another process is tracking; waiting for it")
        lock.acquire()
    try:
        with database_lock(uri, notify) if uri.startswith("postgresql") else nullcontext():
            yield
    finally:
        lock.release()


@contextmanager
def database_lock(uri: str, notify: Callable[[str], None]) -> Iterator[None]:
    """An advisory lock of the database, which ends with its connection.

    Raises UnreachableError when the database does not answer, UsageError when its driver is not installed.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    key = {"key": ADVISORY}
    try:
        connection = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
        if not connection.execute(text("select pg_try_advisory_lock(:key)"), key).scalar():
            notify("another process is tracking; waiting for it")
            connection.execute(text("select pg_advisory_lock(:key)"), key)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{unreachable(uri, str(error))}; `pip install 'quee[postgres]'`, postgresql+psycopg://…"
        ) from None
    except SQLAlchemyError as error:
        raise UnreachableError(unreachable(uri, shortened(" ".join(str(error).split())))) from None
    with connection:
        yield


def prepare_store(root: Path, uri: str) -> None:
    """Set up a local store that does not exist yet, before several processes open it."""
    file = sqlite_file(uri)
    if file and not file.is_file():
        with store_lock(root, uri):
            open_store(root, uri).held()


def open_store(root: Path, uri: str) -> "Store":
    """The store to write to, created when it is a local one that does not exist; the caller holds `store_lock`."""
    for name, value in ENVIRONMENT.items():  # MLflow reads them when imported
        os.environ.setdefault(name, value)
    from tasks.mlflow.store import Store

    return Store(root, uri)
