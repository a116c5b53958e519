"""The tracking store as memory: runs by id, by what they made, and by what they rest on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee.errors import UsageError
from tasks.mlflow.index import COMPLETE, DIGEST, PREFIX, sqlite_file, tracking_uri, unread

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Run

DEP, OUT, MADE, STAGE_RUN = "quee.dep.", "quee.out.", "quee.made.", "stage_run."

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How MLflow says that there is no such run."""


def known_run(client: "MlflowClient", uri: str, run_id: str) -> "Run":
    """A run of a store; raises UsageError where the store says that it has none of that id."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise unread(uri, error) from None
        raise UsageError(f"unknown MLflow run {run_id!r} ({' '.join(str(error).split())[:200]})") from None


class Memory:
    """The tracking store, read by run and by digest."""

    def __init__(self, root: Path) -> None:
        """Raises UsageError when nothing is tracked yet."""
        from tasks.mlflow.tracking import open_store

        self.root = root
        uri = tracking_uri(root)
        file = sqlite_file(uri)
        if file and not file.is_file():
            raise UsageError(
                f"nothing is tracked in {file}: run `quee track`, once `quee run` has results, or set MLFLOW_TRACKING_URI"
            )
        self.uri = uri
        self.client: MlflowClient = open_store(root, uri).client
        self._by_output: dict[tuple[str, str], str | None] = {}

    @contextmanager
    def _asked(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            raise unread(self.uri, error) from None

    def run(self, run_id: str) -> "Run":
        run = known_run(self.client, self.uri, run_id)
        if DIGEST not in run.data.tags:
            raise UsageError(f"MLflow run {run_id} is no result that quee tracked")
        return run

    def artifact(self, run: "Run", path: str) -> bytes | None:
        """An artifact of a run; None when it has none of that name."""
        folder = path.rpartition("/")[0] or None
        with self._asked(), tempfile.TemporaryDirectory() as aside:
            if path not in [item.path for item in self.client.list_artifacts(run.info.run_id, folder)]:
                return None
            return Path(self.client.download_artifacts(run.info.run_id, path, aside)).read_bytes()

    def maker(self, path: str, md5: str) -> str | None:
        """Run id of the stage result that left `path` with this digest; the newest of several."""
        if (path, md5) not in self._by_output:
            experiment = Path(path).parts[1]
            query = f"tags.`{OUT}{path}` = '{md5}' and tags.`{COMPLETE}` = 'true' and tags.`quee.kind` = 'stage'"
            with self._asked():
                known = self.client.get_experiment_by_name(f"{PREFIX}{experiment}")
                found = self.client.search_runs([known.experiment_id], query, max_results=1) if known else []
            self._by_output[path, md5] = found[0].info.run_id if found else None
        return self._by_output[path, md5]

    def upstream(self, run: "Run") -> list["Run"]:
        """The stage runs that a run rests on, its own last, each once; raises UsageError where one is not tracked."""
        tags = run.data.tags
        if tags.get("quee.kind") == "experiment":
            direct = [value for name, value in tags.items() if name.startswith(STAGE_RUN)]
            pending = [self.run(run_id) for run_id in direct]
        else:
            pending = [run]
        found: dict[str, Run] = {}
        after: dict[str, list[str]] = {}
        while pending:
            stage = pending.pop()
            if stage.info.run_id in found:
                continue
            found[stage.info.run_id] = stage
            for path, md5 in named(stage, DEP).items():
                if not path.startswith("artifacts/"):
                    continue
                if (maker := self.maker(path, md5)) is None:
                    raise UsageError(f"{stage.info.run_name} was made from {path} ({md5}), which is not tracked")
                after.setdefault(stage.info.run_id, []).append(maker)
                pending.append(self.run(maker))
        return [found[run_id] for run_id in _ordered(found, after)]


def _ordered(found: dict[str, Any], after: dict[str, list[str]]) -> list[str]:
    done: dict[str, None] = {}

    def visit(run_id: str) -> None:
        if run_id not in done:
            for earlier in after.get(run_id, []):
                visit(earlier)
            done[run_id] = None

    for run_id in sorted(found, key=lambda run_id: str(found[run_id].info.run_name)):
        visit(run_id)
    return list(done)


def named(run: "Run", prefix: str) -> dict[str, str]:
    """The run's tags with that prefix, by what follows it."""
    return {
        name.removeprefix(prefix): value for name, value in sorted(run.data.tags.items()) if name.startswith(prefix)
    }
