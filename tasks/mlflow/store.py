"""What the tracking store already holds, asked without importing MLflow: that alone takes about four seconds.

A local SQLite store is read directly and a server asked by its REST interface; where neither works the caller asks
MLflow's own client.
"""

import base64
import json
import os
import re
import sqlite3
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quee.errors import QueeError, UnreachableError
from quee.work.reach import may_pass
from tasks.work.words import shortened

DIGEST, COMPLETE, BUNDLE, DECIDED = "quee.digest", "quee.complete", "quee.bundle", "quee.champion"
"""Tags: of a run, its result's digest; set last, when all is there; of a model version, its bundle's digest; set last,
whether it became champion and why."""

PREFIX = "quee/"
"""MLflow's experiments are named so, followed by quee's name of the experiment."""

TIMEOUT = 10.0
"""Seconds to wait for a server's answer."""


@dataclass
class Held:
    """What is tracked: run ids by digest of complete runs, and decided versions by (model, bundle's digest)."""

    runs: dict[str, str] = field(default_factory=dict)
    bundles: dict[tuple[str, str], str] = field(default_factory=dict)


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def held(uri: str) -> Held | None:
    """What the store at `uri` holds, or None when only MLflow's client can tell.

    Raises UnreachableError when a server does not answer.
    """
    if file := sqlite_file(uri):
        return _from_sqlite(file) if file.is_file() else Held()
    if uri.startswith(("http://", "https://")):
        return _from_server(uri.rstrip("/"))
    return None


def _from_sqlite(file: Path) -> Held | None:
    runs = """select d.value, r.run_uuid from runs r join tags d on d.run_uuid = r.run_uuid and d.key = ?
              join tags c on c.run_uuid = r.run_uuid and c.key = ? and c.value = 'true'
              where r.lifecycle_stage = 'active' order by r.start_time desc"""
    versions = """select t.name, t.value, t.version from model_version_tags t
                  join model_versions v on v.name = t.name and v.version = t.version
                  join model_version_tags d on d.name = t.name and d.version = t.version and d.key = ?
                  where t.key = ? and v.current_stage != 'Deleted_Internal'"""
    try:
        store = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=TIMEOUT)
        try:
            return Held(
                dict(store.execute(runs, (DIGEST, COMPLETE)).fetchall()),
                {(name, value): str(version) for name, value, version in store.execute(versions, (DECIDED, BUNDLE))},
            )
        finally:
            store.close()
    except sqlite3.Error:  # locked, not set up yet, or another layout
        return None


def run_pages(uri: str, address: str) -> dict[str, str]:
    """The page of each experiment's runs in a local store, shown by a server at `address`; {} where there are none."""
    file = sqlite_file(uri)
    if file is None or not file.is_file():
        return {}
    query = "select name, experiment_id from experiments where lifecycle_stage = 'active' and name like ? order by name"
    try:
        store = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=TIMEOUT)
        try:
            found = store.execute(query, (f"{PREFIX}%",)).fetchall()
        finally:
            store.close()
    except sqlite3.Error:
        return {}
    page = f"{address}/#/experiments/{{}}/runs?workflowType=machine_learning"  # MLflow opens with pages for agents
    return {name.removeprefix(PREFIX): page.format(number) for name, number in found}


def _from_server(uri: str) -> Held | None:
    try:
        known = _ask_all(f"{uri}/api/2.0/mlflow/experiments/search", "experiments", {"max_results": 1000})
        ids = [item["experiment_id"] for item in known if item["name"].startswith(PREFIX)]
        query = {"experiment_ids": ids, "filter": f"tags.`{COMPLETE}` = 'true'", "max_results": 1000}
        runs = _ask_all(f"{uri}/api/2.0/mlflow/runs/search", "runs", query) if ids else []
        versions = _ask_all(f"{uri}/api/2.0/mlflow/model-versions/search", "model_versions", None)
    except urllib.error.HTTPError:  # answers, but wants another form or credentials: MLflow's client knows more ways
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(unreachable(uri, str(reason))) from None
    found = Held()
    for run in reversed(runs):
        found.runs[_tags(run["data"]).get(DIGEST, "")] = run["info"]["run_id"]
    for version in versions:
        if DECIDED in (tags := _tags(version)):
            found.bundles[version["name"], tags.get(BUNDLE, "")] = version["version"]
    return found


def _tags(item: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in item.get("tags", [])}


def _ask_all(address: str, name: str, query: dict[str, Any] | None) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    token = ""
    while True:
        if query is None:
            request = urllib.request.Request(f"{address}?max_results=1000&page_token={token}")
        else:
            body = json.dumps({**query, "page_token": token} if token else query).encode()
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        if bearer := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            request.add_header("Authorization", f"Bearer {bearer}")
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            page = json.load(answer)
        items += page.get(name, [])
        token = page.get("next_page_token", "")
        if not token:
            return items


def failure(uri: str, error: BaseException) -> QueeError:
    """What to tell of a store's error: UnreachableError where a later try may succeed, else what the store refused."""
    reason = shortened(" ".join(str(error).split()))
    if may_pass(error):
        return UnreachableError(unreachable(uri, reason))
    return QueeError(f"MLflow at {shown(uri)} refused the results: {reason}")


def unread(uri: str, error: BaseException) -> QueeError:
    """What to tell where a store does not answer a question about results."""
    kind = UnreachableError if may_pass(error) else QueeError
    return kind(f"MLflow at {shown(uri)} does not answer: {shortened(' '.join(str(error).split()))}")


def unreachable(uri: str, reason: str) -> str:
    return (
        f"MLflow at {shown(uri)} does not take results ({reason}); nothing is lost: `quee track` logs them once it does"
    )


def shown(uri: str) -> str:
    """A store's address without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)
