"""Writing the results of stages to MLflow as runs, by its client with run ids, and what all runs have in common."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)

from quee.errors import QueeError
from quee.work.io import read_table
from tasks.dvc.lock import ExperimentResult, StageResult, digest_of, read_out, read_text
from tasks.mlflow.describe import NOTE, of_stage
from tasks.mlflow.journal import DIFFERENCES, PATCH, Journal, git_tags
from tasks.mlflow.store import COMPLETE, DEP, DIGEST, FACTS, HOMES, OUT, TABLES, Store, sqlite_file
from tasks.mlflow.values import FEW, METRICS, Point, history, settings_of, stage_metrics
from tasks.mlflow.views import tags_of_home
from tasks.stages import STAGES, Kind
from tasks.work.differences import read_patch

BATCH = 100
"""Parameters or tags per call of MLflow; ten times as many metrics."""

TRACKER = "quee.tracker"
"""Tag: host, process and time of the tracker that is writing a run."""

ABANDONED = 3600
"""Age in seconds at which another host's incomplete run counts as left by a dead tracker."""


@dataclass(frozen=True)
class PointResult:
    """Fields that identify one point of an ablation."""

    experiment: str
    digest: str
    title: str


class Writer:
    """Writes results to a store as runs; the caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        self.store, self.root, self.client = store, store.root, store.client
        self.journal = Journal(self.root)
        self._homes: dict[str, str] = {}

    def log_stage(self, result: StageResult) -> str:
        """Add the run of a stage result; returns its run id."""
        entry = yaml.safe_dump({f"{result.stage}@{result.experiment}": result.entry}, sort_keys=True)
        tags = {"quee.kind": "stage", "quee.stage": result.stage, "mlflow.source.name": result.entry.get("cmd", "")}
        tags |= {f"{DEP}{path}": md5 for path, md5 in result.deps.items()}
        tags |= {f"{OUT}{path}": md5 for path, md5 in result.outs.items()}
        tags |= {NOTE: of_stage(result.name, tags["mlflow.source.name"], ())}
        with self._run(result, self.journal.of(result), tags) as run_id:
            numbers = stage_metrics(self._json(result, "metrics.json") or {})
            shown = numbers if len(numbers) <= FEW else {}
            self._log_numbers(run_id, settings_of(result.settings), shown, self._history(result))
            self._log_metrics_table(run_id, numbers)
            self.client.log_inputs(run_id, self._datasets(result))
            self._log_files(run_id, result)
            self._log_tables(run_id, Path(result.folder), ("sensitivity",))
            self._log_models(run_id, result)
            self.client.log_text(run_id, entry, "dvc.lock")
            self._log_experiment_file(run_id, result)
            if result.stage == "ablate":
                self._log_points(run_id, result)
        return run_id

    def _log_points(self, run_id: str, result: StageResult) -> None:
        """Add every point of an ablation as a run of its own, for comparison by name."""
        metrics, recipes = self._json(result, "metrics.json"), self._json(result, "points.json")
        for title, recipe in recipes.items():
            axis, _, name = title.partition("/")
            point = PointResult(
                result.experiment, digest_of([result.digest, title]), f"{result.name}/{title} {result.digest[:7]}"
            )
            tags = {"quee.kind": "point", "quee.axis": axis, "quee.point": name, "quee.ablation": run_id}
            with self._run(point, self.journal.of(result), tags) as point_id:
                settings = {
                    key: value if isinstance(value, str) else json.dumps(value) for key, value in recipe.items()
                }
                self._log_numbers(point_id, settings, stage_metrics(metrics["points"][title]), [])

    @contextmanager
    def _run(
        self,
        result: StageResult | ExperimentResult | PointResult,
        made: dict[str, Any],
        tags: dict[str, str],
        shown: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """A run that is marked complete at the end of the block; earlier runs of the result are deleted first.

        With `shown`, only tags whose names begin so are tags; the others are written to the artifact FACTS.
        """
        for stale in self.store.runs(f"tags.`{DIGEST}` = '{result.digest}'"):
            if not self._at_work(stale):
                self.store.delete(stale)
        now = time.time()
        start, end = float(made.get("start", now)), float(made.get("end", now))
        tags = {
            DIGEST: result.digest,
            "quee.experiment": result.experiment,
            "mlflow.source.type": "PROJECT",
            **tags,
            **git_tags(self.root),
            **made.get("tags", {}),
        }
        patch = read_patch(self.root, tags.get(PATCH, ""))
        kept = {name: value for name, value in tags.items() if shown and not name.startswith(shown)}
        tags = {name: value for name, value in tags.items() if name not in kept}
        tags[TRACKER] = json.dumps([platform.node(), os.getpid(), round(now)])
        run = self.client.create_run(
            self._experiment_id(tags["quee.kind"]), round(start * 1000), {DIGEST: result.digest}, result.title
        )
        run_id: str = run.info.run_id
        items = [RunTag(name, str(value)) for name, value in tags.items()]
        for at in range(0, len(items), BATCH):
            self.client.log_batch(run_id, tags=items[at : at + BATCH])
        if kept:
            self.client.log_text(run_id, json.dumps(kept, indent=1, sort_keys=True), FACTS)
        if patch is not None:
            self._log_bytes(run_id, patch, DIFFERENCES)
        yield run_id
        self.client.set_terminated(run_id, "FINISHED", round(end * 1000))
        self.client.set_tag(run_id, COMPLETE, "true")
        self.client.delete_tag(run_id, TRACKER)  # afterwards, so that no other tracker takes the run for abandoned
        if self.store.shared:
            self._keep_one(result.digest)

    def _at_work(self, run: Run) -> bool:
        """Whether another tracker without a common lock may be writing the run."""
        try:
            host, pid, began = json.loads(run.data.tags.get(TRACKER, ""))
        except ValueError:
            return False
        if not self.store.shared or COMPLETE in run.data.tags or time.time() - began > ABANDONED:
            return False
        return host != platform.node() or (pid != os.getpid() and Path(f"/proc/{pid}").exists())

    def _keep_one(self, digest: str) -> None:
        """Delete all complete runs of a result but one, by a rule that all trackers follow."""
        twins = self.store.runs(f"tags.`{DIGEST}` = '{digest}' and tags.`{COMPLETE}` = 'true'")
        for twin in sorted(twins, key=lambda run: str(run.info.run_id))[1:]:
            self.store.delete(twin)

    def _experiment_id(self, kind: str) -> str:
        """Id of MLflow's experiment for runs of a kind."""
        if kind not in self._homes:
            name = HOMES[kind]
            known = self.client.get_experiment_by_name(name)
            if known is None:
                file = sqlite_file(self.store.uri)
                folder = (file.parent / "mlruns" / name.replace("/", "-")).as_uri() if file else None
                self._homes[kind] = self.client.create_experiment(name, folder, tags_of_home(kind))
            else:
                if known.lifecycle_stage == "deleted":
                    self.client.restore_experiment(known.experiment_id)
                self._homes[kind] = known.experiment_id
        return self._homes[kind]

    def _log_numbers(
        self, run_id: str, settings: dict[str, str], metrics: dict[str, float], points: list[Point]
    ) -> None:
        at = round(time.time() * 1000)
        values = [Metric(name, value, at, 0) for name, value in metrics.items()]
        values += [Metric(point.name, point.value, at, point.step) for point in points]
        for start in range(0, len(values), 10 * BATCH):
            self.client.log_batch(run_id, metrics=values[start : start + 10 * BATCH])
        parameters = [Param(name, value) for name, value in settings.items()]
        for start in range(0, len(parameters), BATCH):
            self.client.log_batch(run_id, params=parameters[start : start + BATCH])

    def _log_metrics_table(self, run_id: str, numbers: dict[str, float]) -> None:
        """All numbers of a result as one table."""
        if numbers:
            table = {"metric": list(numbers), "value": list(numbers.values())}
            self.client.log_table(run_id, table, f"{TABLES}/{METRICS}.json")

    def _log_bytes(self, run_id: str, content: bytes, name: str) -> None:
        with tempfile.TemporaryDirectory() as aside:
            (Path(aside) / name).write_bytes(content)
            self.client.log_artifact(run_id, str(Path(aside) / name))

    def _json(self, result: StageResult, name: str) -> Any:
        text = read_out(self.root, result, name, here=True)
        return None if text is None else json.loads(text)

    def _history(self, result: StageResult) -> list[Point]:
        file = self.root / result.folder / "history.parquet"
        return history(read_table(file)) if file.is_file() else []

    def _log_tables(self, run_id: str, folder: Path, names: tuple[str, ...]) -> None:
        """Parquet files of a stage as tables that MLflow shows."""
        for name in names:
            file = self.root / folder / f"{name}.parquet"
            if file.is_file():
                self.client.log_table(run_id, read_table(file).to_pydict(), f"{TABLES}/{name}.json")

    def _datasets(self, result: StageResult) -> list[DatasetInput]:
        """The images and data sets that a stage read, with DVC's digests (MLflow keeps 36 characters)."""
        found = []
        for path, md5 in result.deps.items():
            if path in (f"data/{self._dataset_name(result)}", f"experiments/{result.experiment}.data"):
                name = self._dataset_name(result)
                source = f"data/{name}"
            elif path.startswith("artifacts/") and STAGES.get(path.rpartition("/")[2], Kind()).dataset:
                name, source = path.removeprefix("artifacts/"), path
            else:
                continue
            profile = json.dumps({"dvc": md5, "path": path})
            dataset = Dataset(name, md5[:36], "local", json.dumps({"uri": source}), profile=profile)
            found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", result.stage)]))
        return found

    def _dataset_name(self, result: StageResult) -> str:
        known = result.settings.get("prepare", {}).get("dataset")
        if known is None:
            prepare = StageResult(result.experiment, "prepare", {})
            known = (self._json(prepare, "dataset.json") or {}).get("dataset", result.experiment)
        return str(known)

    def _log_files(self, run_id: str, result: StageResult) -> None:
        folder = self.root / result.folder
        skipped = (".safetensors", *STAGES.get(result.stage, Kind()).unlogged)
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.name.endswith(skipped):
                place = Path("files") / file.relative_to(folder).parent
                self.client.log_artifact(run_id, str(file), place.as_posix())

    def _log_models(self, run_id: str, result: StageResult) -> None:
        """Each safetensors file as a logged model, with the JSON files that describe it; a bundle is registered."""
        if result.stage == "bundle":
            return
        folder = self.root / result.folder
        described = sorted(folder.glob("*.json"))
        for file in sorted(folder.glob("*.safetensors")):
            parts = [
                result.experiment,
                result.stage,
                *([file.stem] if file.stem not in ("model", result.stage) else []),
            ]
            model = self.client.create_logged_model(
                self._experiment_id("stage"),
                "-".join(parts).replace(".", "_"),
                run_id,
                tags={
                    DIGEST: result.digest,
                    "quee.experiment": result.experiment,
                    "quee.file": f"{result.folder}/{file.name}",
                },
                params={name: value[:500] for name, value in settings_of(result.settings).items()},
                model_type=result.stage,
            )
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            with tempfile.TemporaryDirectory() as aside:
                for path in (file, *described):
                    (Path(aside) / path.name).symlink_to(path.resolve())
                self.client.log_model_artifacts(model.model_id, aside)
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _log_experiment_file(self, run_id: str, result: StageResult | ExperimentResult) -> None:
        """The experiment's YAML, if its settings are still those of the result."""
        path = f"experiments/{result.experiment}.yaml"
        text = read_text(self.root, path)
        if text and _says(text, path, result):
            self.client.log_text(run_id, text, path)


def _says(text: str, path: str, result: StageResult | ExperimentResult) -> bool:
    """Whether a YAML has the settings of the result; present defaults are filled in if the result's defaults were recorded."""
    from quee.settings.experiment import parse_experiment, read_content, resolved

    try:
        blocks = (
            resolved(parse_experiment(result.experiment, text, path))
            if result.has_defaults
            else read_content(text, path)
        )
    except QueeError:
        return False
    return all(blocks.get(name) == value for name, value in result.settings.items())
