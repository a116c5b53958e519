"""What MLflow keeps that no tracked result has. Part of tasks/verbs/waste.py; the caller holds the store's lock."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from tasks.mlflow.index import COMPLETE, PREFIX, sqlite_file
from tasks.mlflow.memory import DEP, OUT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from tasks.verbs.waste import Waste


def store_waste(root: Path, uri: str) -> tuple[set[str], "list[Waste]"]:
    """The digests that tracked results name, and what can go from the store; raises UnreachableError."""
    from mlflow.entities import ViewType

    from tasks.mlflow.tracking import open_store
    from tasks.verbs.waste import Waste

    file = sqlite_file(uri)
    if file and not file.is_file():
        return set(), []
    store = open_store(root, uri)
    with store.reachable():
        client = store.client
        runs = list(_runs(client, ViewType.ALL))
        versions = _all(lambda token: client.search_model_versions(max_results=1000, page_token=token))
        registered = {version.run_id for version in versions}
        models = {str(version.source).removeprefix("models:/") for version in versions}
        kept = [run for run in runs if run.info.lifecycle_stage == "active" and COMPLETE in run.data.tags]
        named = {value for run in kept for key, value in run.data.tags.items() if key.startswith((DEP, OUT))}
        known = {run.info.run_id for run in kept} | registered
        stale = [run for run in runs if run.info.run_id not in known]
        if uri.startswith(("http://", "https://")):
            return named, [_behind_server(stale)]
        waste = Waste("MLflow", "runs that were deleted or cut short, their models, and files that belong to none")
        waste.count = len(stale)
        lost = [m for m in _models(runs, uri) if m["id"] not in models and (m["gone"] or m["run"] not in known)]
        waste.count += len(lost)
        places = [run.info.artifact_uri for run in stale] + [model["place"] for model in lost]
        used = {_local(run.info.artifact_uri) for run in runs}
        orphans = _orphans(file.parent / "mlruns", {run.info.run_id for run in runs}, used) if file else []
        for path in filter(None, map(_local, places)):
            _count(waste, path)
        for path in orphans:
            waste.add(path)
    waste.remove = lambda: _remove(client, uri, stale, [model["id"] for model in lost], waste)
    return named, [waste]


def _behind_server(stale: "list[Run]") -> "Waste":
    from tasks.verbs.waste import Waste

    note = f"{len(stale)} runs can go; where the server runs: `mlflow gc --backend-store-uri …`"
    return Waste("MLflow", "", note=note)


def _all(page_of: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = page_of(token)
        found += page
        token = page.token
        if not token:
            return found


def _runs(client: "MlflowClient", view: int) -> "Iterator[Run]":
    experiments = _all(lambda token: client.search_experiments(view_type=view, max_results=1000, page_token=token))
    ids = [item.experiment_id for item in experiments if item.name.startswith(PREFIX)]
    if ids:
        yield from _all(lambda token: client.search_runs(ids, "", view, 1000, page_token=token))


def _models(runs: "list[Run]", uri: str) -> list[dict[str, Any]]:
    """Logged models of our experiments, deleted ones too, which MLflow's client does not list."""
    from sqlalchemy import bindparam, create_engine, text

    ids = sorted({int(run.info.experiment_id) for run in runs})
    columns = "model_id, source_run_id, artifact_location, lifecycle_stage = 'deleted'"
    query = text(f"select {columns} from logged_models where experiment_id in :ids order by model_id")
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            rows = connection.execute(query.bindparams(bindparam("ids", expanding=True)), {"ids": ids}).fetchall()
    finally:
        engine.dispose()
    return [dict(zip(("id", "run", "place", "gone"), row, strict=True)) for row in rows]


def _orphans(folder: Path, known: set[str], used: set[Path | None]) -> list[Path]:
    """Folders of runs that the store has no word of: a kill between the two, or a store that was deleted by hand."""
    return [
        path
        for path in sorted(folder.glob("*/*"))
        if path.name not in known and path / "artifacts" not in used and len(path.name) == 32 and path.is_dir()
    ]


def _local(uri: str) -> Path | None:
    parts = urlparse(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _count(waste: "Waste", path: Path) -> None:
    from tasks.work.space import size_of

    if path.exists():
        waste.bytes += size_of(path)


def _remove(client: "MlflowClient", uri: str, runs: "list[Run]", models: list[str], waste: "Waste") -> None:
    """As `mlflow gc` does it, which would go through everybody's experiments."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracking._tracking_service.utils import _get_store

    from tasks.verbs.waste import _unlink

    store = _get_store(uri)
    for model_id in models:
        place = store.get_logged_model(model_id, allow_deleted=True).artifact_location
        _delete_artifacts(get_artifact_repository(place), place)
        store._hard_delete_logged_model(model_id)
    for run in runs:
        if run.info.lifecycle_stage == "active":
            client.delete_run(run.info.run_id)
        _delete_artifacts(get_artifact_repository(run.info.artifact_uri), run.info.artifact_uri)
        store._hard_delete_run(run.info.run_id)
    _unlink(waste.items)


def _delete_artifacts(repository: Any, place: str) -> None:
    path = _local(place)
    if path is None or path.exists():
        repository.delete_artifacts()
    if path is not None and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
