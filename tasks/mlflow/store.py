"""MLflow's tracking store: its address, its lock, its contents, and messages when it does not answer.

Importing this module does not import MLflow, which takes about four seconds; making a `Store` does.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from quee.errors import QueeError, UnreachableError, UsageError
from quee.work.reach import may_pass
from tasks.work.words import shortened

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

DIGEST, COMPLETE, BUNDLE, DECIDED = "quee.digest", "quee.complete", "quee.bundle", "quee.champion"
"""Tags. A run has its result's digest and `complete`, which is set last. A model version has its bundle's digest and
`champion`, which is set last and tells whether the version became champion, and why."""

DEP, OUT, MADE, STAGE_RUN = "quee.dep.", "quee.out.", "quee.made.", "stage_run."
"""Prefixes of tags: digests of inputs and outputs, facts of the execution, an experiment's stage runs."""

RESULTS = "quee"
"""MLflow's experiment with one run per result of an experiment: what people open."""

PREFIX = f"{RESULTS}/"
"""Prefix of the names of MLflow's other experiments. Earlier versions had one per experiment, such as `quee/digits`."""

FACTS, TABLES = "facts.json", "tables"
"""Artifacts of a run: the tags that an experiment's run does not show, and the folder of its tables."""

HOMES = {"experiment": RESULTS, "stage": f"{PREFIX}stages", "point": f"{PREFIX}ablations"}
"""MLflow's experiment of a run, by the run's kind."""

OURS = f"name LIKE '{RESULTS}%'"
"""MLflow's query for quee's experiments; `is_ours` refuses others with names that begin like them."""

BUNDLE_MODEL = "bundle"
"""Type of a logged model that is a bundle."""

PAGE = 1000
"""Items per page of MLflow's lists."""

ADVISORY = 0x71756565
"""Number of the lock in a PostgreSQL store: "quee"."""

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a missing run."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for judges of language models
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment for MLflow, unless the user has set it."""


@dataclass
class Held:
    """Tracked results: run ids of complete runs by digest, and (model, bundle's digest) of decided versions."""

    runs: dict[str, str] = field(default_factory=dict)
    bundles: set[tuple[str, str]] = field(default_factory=set)


class Store:
    """A tracking store and its model registry, by MLflow's client. A local store is made if it does not exist."""

    def __init__(self, root: Path, uri: str) -> None:
        _set_environment()
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it logs every retry
        self.root, self.uri = root, uri
        said = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)  # the registry resolves `models:/ID` by this global address, not by the client's
        if said is None:  # MLflow sets this for child processes; it would redirect the next store opened here
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        mlflow.set_registry_uri(uri)
        self.client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    @property
    def shared(self) -> bool:
        """Whether the store is behind a server, where trackers of several machines share no lock."""
        return is_server(self.uri)

    def experiments(self) -> dict[str, str]:
        """Ids of quee's experiments in MLflow by their names there, that of results first."""
        found = listed(lambda token: self.client.search_experiments(filter_string=OURS, page_token=token))
        return {
            item.name: item.experiment_id for item in sorted(found, key=lambda item: item.name) if is_ours(item.name)
        }

    def runs(self, query: str) -> "list[Run]":
        """The runs of quee's experiments that match an MLflow query, newest first."""
        ids = list(self.experiments().values())
        ask = partial(self.client.search_runs, ids, query, max_results=PAGE)
        return listed(lambda token: ask(page_token=token)) if ids else []

    def versions(self, query: str | None = None) -> "list[ModelVersion]":
        """The registered model versions that match an MLflow query; all by default."""
        return listed(lambda token: self.client.search_model_versions(query, PAGE, page_token=token))

    def delete(self, run: "Run") -> None:
        """Delete a run and its logged models. A bundle's model stays, because a registered version may be made of it."""
        query = f"source_run_id = '{run.info.run_id}'"
        for model in self.client.search_logged_models([run.info.experiment_id], query):
            if model.model_type != BUNDLE_MODEL:
                self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run.info.run_id)

    def held(self) -> Held:
        """The tracked results; of several runs of one result, the newest.

        An experiment's run that an earlier version wrote elsewhere than in `RESULTS` does not count: `track` replaces it.
        """
        results = self.experiments().get(RESULTS)
        runs = [
            run
            for run in self.runs(f"tags.`{COMPLETE}` = 'true'")
            if run.data.tags.get("quee.kind") != "experiment" or run.info.experiment_id == results
        ]
        versions = [version for version in self.versions() if DECIDED in version.tags]
        return Held(
            {run.data.tags.get(DIGEST, ""): run.info.run_id for run in reversed(runs)},
            {(version.name, version.tags.get(BUNDLE, "")) for version in versions},
        )

    def run(self, run_id: str) -> "Run":
        """A run; raises UsageError where the store has none of that id."""
        from mlflow.exceptions import MlflowException

        with asking(self.uri):
            try:
                return self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code not in UNKNOWN:
                    raise
                raise UsageError(f"unknown MLflow run {run_id!r} ({' '.join(str(error).split())[:200]})") from None


def is_ours(name: str) -> bool:
    """Whether an experiment of MLflow is quee's."""
    return name == RESULTS or name.startswith(PREFIX)


def model_name(experiment: str) -> str:
    """Name of an experiment's bundle in the model registry."""
    return f"quee-{experiment}"


def listed(ask: Callable[[str | None], Any]) -> list[Any]:
    """All items of a paged answer; `ask` returns the page of a token."""
    found: list[Any] = []
    token = None
    while True:
        page = ask(token)
        found += page
        token = page.token
        if not token:
            return found


def default_uri(root: Path) -> str:
    """The project's own store."""
    return f"sqlite:///{root.resolve() / 'mlflow.db'}"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(root)


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def is_missing(uri: str) -> bool:
    """Whether an address is of a local store that does not exist yet."""
    file = sqlite_file(uri)
    return file is not None and not file.is_file()


def open_store(root: Path) -> Store:
    """The store to read from; raises UsageError where nothing is tracked yet."""
    uri = tracking_uri(root)
    if is_missing(uri):
        raise UsageError(
            f"nothing is tracked in {sqlite_file(uri)}: run `quee track`, once `quee run` has results, "
            "or set MLFLOW_TRACKING_URI"
        )
    return Store(root, uri)


@contextmanager
def store_lock(root: Path, uri: str, notify: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """Hold the store's lock, beside a SQLite store or in a PostgreSQL store, so that checkouts that share it take turns.

    For a store behind a server, only trackers of this checkout take turns; `tasks.mlflow.runs` resolves other conflicts.
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
        with _database_lock(uri, notify) if uri.startswith("postgresql") else nullcontext():
            yield
    finally:
        lock.release()


@contextmanager
def _database_lock(uri: str, notify: Callable[[str], None]) -> Iterator[None]:
    """An advisory lock of the database, which ends with its connection.

    Raises UnreachableError where the database does not answer, UsageError where its driver is not installed.
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
            f"{_unreachable(uri, str(error))}; `pip install 'quee[postgres]'`, postgresql+psycopg://…"
        ) from None
    except SQLAlchemyError as error:
        raise UnreachableError(_unreachable(uri, _one_line(error))) from None
    with connection:
        yield


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Raises UnreachableError for an error of MLflow if a later try may succeed, else QueeError."""
    _set_environment()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if may_pass(error):
            raise UnreachableError(_unreachable(uri, _one_line(error))) from None
        raise QueeError(f"MLflow at {_shown(uri)} refused the results: {_one_line(error)}") from None


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Raises UnreachableError or QueeError where the store does not answer a question about results."""
    _set_environment()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        kind = UnreachableError if may_pass(error) else QueeError
        raise kind(f"MLflow at {_shown(uri)} does not answer: {_one_line(error)}") from None


def _set_environment() -> None:
    """Set MLflow's environment; called before MLflow is imported, which reads it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _one_line(error: BaseException) -> str:
    return shortened(_shown(" ".join(str(error).split())))


def _unreachable(uri: str, reason: str) -> str:
    return (
        f"MLflow at {_shown(uri)} does not take results ({reason}); "
        "nothing is lost: `quee track` logs them once it does"
    )


def _shown(text: str) -> str:
    """A text whose addresses have no user and password."""
    return re.sub(r"//[^/@\s]*@", "//", text)
