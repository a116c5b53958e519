"""Tracking of results in MLflow: one run per distinct experiment result, and one per distinct stage result elsewhere.

A result is what `dvc.lock` records. `track` makes the store hold each result exactly once. It may be called at any time,
again, after an interruption, or twice at once.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from quee.work.io import write_json
from tasks.dvc.dependencies import code_root
from tasks.dvc.lock import (
    ExperimentResult,
    StageResult,
    chosen,
    out_problem,
    read_ablations,
    read_lock,
    stage_names,
)
from tasks.mlflow.store import Held, Store, is_missing, model_name, store_lock, tracking_uri, writing

PYFUNC = Path("quee/runtime/pyfunc.py")
"""Script by which MLflow loads a registered bundle."""

LEDGERS = Path(".quee") / "tracked"
"""Folder with the contents of each store after the last `track`; if these have all results, MLflow is not imported."""

FORMAT = 2
"""Format of ledgers. One of an earlier format is not read, because the store may hold results in an earlier form."""


@dataclass
class Tracked:
    """The result of one `track`."""

    logged: list[str] = field(default_factory=list)
    """Titles of the runs added, such as `digits/targets 3f2a91c`."""
    registered: list[str] = field(default_factory=list)
    """Model versions added, such as `quee-digits version 2`."""
    decided: dict[str, str] = field(default_factory=dict)
    """By added model version: whether it became champion, and why."""
    known: int = 0
    """Number of results that the store already had."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Results that could not be tracked, with the reason."""


@dataclass
class Pending:
    """Results that the store lacks; stages come before their experiments."""

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
    force: bool = False,
    pyfunc: Path = PYFUNC,
    notify: Callable[[str], None] = lambda message: None,
) -> Tracked:
    """Make the store hold every result of `dvc.lock` in `artifacts/`, of the given experiments or of all.

    `force` asks the store instead of this checkout's ledger, which does not know of runs deleted by hand. `pyfunc` is the
    script registered with bundles; without that file no bundle is registered. `notify` gets a message while waiting.
    Raises UnreachableError where the store does not take results, UsageError for an experiment without results.
    """
    results = chosen(read_lock(root), experiments)
    if not results:
        return Tracked()
    uri = tracking_uri(root)
    problem = cache(lambda result: out_problem(root, result))
    if not force:
        pending = find_pending(root, results, read_ledger(root, uri), pyfunc, problem)
        if not pending:
            return Tracked(known=pending.known, skipped=pending.skipped)
    with store_lock(root, uri, notify), writing(uri):
        store = Store(root, uri)
        held = store.held()
        pending = find_pending(root, results, held, pyfunc, problem)
        done = Tracked(known=pending.known, skipped=pending.skipped)
        if pending:
            _add(store, results, pending, pyfunc, done)
            held = store.held()
        write_ledger(store, held)
    return done


def _add(store: Store, results: dict[str, ExperimentResult], pending: Pending, pyfunc: Path, done: Tracked) -> None:
    from tasks.mlflow.registry import decide, finish, registered
    from tasks.mlflow.rows import RowWriter

    writer = RowWriter(store)
    for stage in pending.stages:
        writer.log_stage(stage)
        done.logged.append(stage.title)
    for experiment in pending.experiments:
        writer.log_experiment(experiment)
        done.logged.append(experiment.title)
    runs = store.held().runs if pending.bundles else {}
    for bundle in pending.bundles:
        result = results[bundle.experiment]
        version = registered(store, bundle, pyfunc, runs.get(result.digest) or runs[bundle.digest])
        decision = decide(store.client, version)
        if result.digest in runs:
            writer.link_version(result, runs[result.digest], version, decision)
        finish(store.client, version, decision, writer.about_model(result))
        title = f"{version.name} version {version.version}"
        done.registered.append(title)
        done.decided[title] = decision


def find_pending(
    root: Path,
    results: dict[str, ExperimentResult],
    known: Held,
    pyfunc: Path,
    problem: Callable[[StageResult], str | None],
) -> Pending:
    """The `results` that are not `known`; `problem` returns why a stage's files cannot be logged, or None."""
    expected = stage_names(root)
    ablations = read_ablations(root)
    pending = Pending()

    def stage_is_lost(stage: StageResult) -> bool:
        if stage.digest in known.runs:
            pending.known += 1
        elif reason := problem(stage):
            pending.skipped[stage.name] = reason
            return True
        else:
            pending.stages.append(stage)
        return False

    for name, result in results.items():
        lost = [stage.stage for stage in result.stages.values() if stage_is_lost(stage)]
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
        bundle = result.stages.get("bundle")
        if bundle and (model_name(name), bundle.outs.get(bundle.folder, "")) not in known.bundles:
            if not (code_root(root) / pyfunc).is_file():
                pending.skipped[f"model {model_name(name)}"] = f"not registered: {pyfunc} is not here"
            elif bundle.name not in pending.skipped and not problem(bundle):
                pending.bundles.append(bundle)
        if name in ablations:
            stage_is_lost(ablations[name])
    return pending


def _read_by_experiment(result: ExperimentResult) -> list[StageResult]:
    return [stage for name, stage in result.stages.items() if name not in ("features", "bundle")]


def _ledger(root: Path, uri: str) -> Path:
    return root / LEDGERS / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}.json"


def read_ledger(root: Path, uri: str) -> Held:
    """The store's contents after the last `track` from this checkout; empty where unknown."""
    try:
        content = json.loads(_ledger(root, uri).read_text(encoding="utf-8"))
        known = content["format"] == FORMAT and not is_missing(uri)
        return Held(content["runs"], {(name, md5) for name, md5 in content["bundles"]}) if known else Held()
    except (OSError, ValueError, KeyError, TypeError):
        return Held()


def write_ledger(store: Store, held: Held) -> None:
    """Record the store's contents."""
    file = _ledger(store.root, store.uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"format": FORMAT, "runs": held.runs, "bundles": sorted(held.bundles)})


def prepare_store(root: Path, uri: str) -> Store:
    """The store; a missing local store is made under the lock, before several processes open it."""
    if is_missing(uri):
        with store_lock(root, uri), writing(uri):
            store = Store(root, uri)
            write_ledger(store, store.held())
    return Store(root, uri)
