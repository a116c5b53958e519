"""Content of MLflow's store that belongs to no tracked result; `mlflow gc` removes it. The caller holds the store's lock."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quee.errors import QueeError
from tasks.mlflow.store import (
    COMPLETE,
    DEP,
    ENVIRONMENT,
    OURS,
    OUT,
    Store,
    default_uri,
    is_missing,
    is_ours,
    listed,
    tracking_uri,
    writing,
)
from tasks.work.words import last_words

if TYPE_CHECKING:
    from mlflow.entities import Run

FOLDERS = ("*/" + "[0-9a-f]" * 32, "*/models/m-*")
"""Patterns below `mlruns/` of the folders of runs and of logged models."""


@dataclass
class StoreWaste:
    """What can be removed from the store, and what its results still need elsewhere."""

    named: set[str] = field(default_factory=set)
    """Digests of the inputs and outputs of tracked results."""
    runs: "list[Run]" = field(default_factory=list)
    """Runs that were deleted or interrupted."""
    folders: list[Path] = field(default_factory=list)
    """Folders of these runs, of their models, and of no run."""
    own: bool = True
    """Whether the store is the project's own; deleted runs of another store are left to its owners."""


def store_waste(root: Path) -> StoreWaste:
    """What can be removed from the tracking store; raises UnreachableError where it does not answer."""
    uri = tracking_uri(root)
    own = uri == default_uri(root)
    if is_missing(uri):
        return StoreWaste(own=own)
    from mlflow.entities import ViewType

    with writing(uri):
        client = Store(root, uri).client
        query = None if own else OURS
        found = listed(lambda token: client.search_experiments(ViewType.ALL, filter_string=query, page_token=token))
        names = {item.experiment_id: item.name for item in found}
        ids = list(names)
        if not ids:
            return StoreWaste(own=own)
        runs = listed(lambda token: client.search_runs(ids, "", ViewType.ALL, page_token=token))
        registered = {v.run_id for v in listed(lambda token: client.search_model_versions(page_token=token))}
        kept = [
            run
            for run in runs
            if run.info.run_id in registered
            or (run.info.lifecycle_stage == "active" and _is_whole(run, names[run.info.experiment_id]))
        ]
        known = {run.info.run_id for run in kept}
        waste = StoreWaste(own=own, runs=[run for run in runs if run.info.run_id not in known])
        waste.named = {value for run in kept for key, value in run.data.tags.items() if key.startswith((DEP, OUT))}
        if own:
            models = listed(lambda token: client.search_logged_models(ids, page_token=token))
            known |= {model.model_id for model in models if model.source_run_id in known or not model.source_run_id}
            files = [path for pattern in FOLDERS for path in sorted((root / "mlruns").glob(pattern))]
            waste.folders = [path for path in files if path.name not in known]
        return waste


def _is_whole(run: "Run", experiment: str) -> bool:
    """Whether the run was not interrupted. Runs outside of quee's experiments count as whole, because it is unknown."""
    return COMPLETE in run.data.tags or not is_ours(experiment)


def remove_waste(root: Path, waste: StoreWaste) -> None:
    """Delete interrupted runs, then purge all deleted runs; the caller removes the folders."""
    uri = tracking_uri(root)
    with writing(uri):
        store = Store(root, uri)
        for run in waste.runs:
            if run.info.lifecycle_stage == "active":
                store.delete(run)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    done = subprocess.run(command, env={**ENVIRONMENT, **os.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QueeError(f"mlflow gc failed: {last_words(done.stderr) or last_words(done.stdout)}")
