"""Queries to the tracking store: runs by id, by their results, and by their inputs."""

import json
import tempfile
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from quee.errors import UsageError
from tasks.dvc.lock import StageResult
from tasks.mlflow.store import COMPLETE, DEP, DIGEST, FACTS, OUT, STAGE_RUN, TABLES, asking, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run as Run


class Memory:
    """The tracking store, read by run and by digest."""

    def __init__(self, root: Path) -> None:
        """Raises UsageError where nothing is tracked yet."""
        self.root = root
        self.store = open_store(root)
        self.client = self.store.client
        self._by_output: dict[tuple[str, str], str | None] = {}

    def run(self, run_id: str) -> "Run":
        """A tracked result; raises UsageError where the store has no run of that id, or the run is not of a result."""
        run = self.store.run(run_id)
        if DIGEST not in run.data.tags:
            raise UsageError(f"MLflow run {run_id} is no result that quee tracked")
        return run

    def artifact(self, run: "Run", path: str) -> bytes | None:
        """An artifact of a run; None where the run has none of that name."""
        folder = path.rpartition("/")[0] or None
        with asking(self.store.uri), tempfile.TemporaryDirectory() as aside:
            if path not in [item.path for item in self.client.list_artifacts(run.info.run_id, folder)]:
                return None
            return Path(self.client.download_artifacts(run.info.run_id, path, aside)).read_bytes()

    def facts(self, run: "Run") -> dict[str, str]:
        """What is recorded of a run beside its numbers: its tags, and those that an experiment's run keeps in a file."""
        aside = self.artifact(run, FACTS) if run.data.tags.get("quee.kind") == "experiment" else None
        return run.data.tags | json.loads(aside or b"{}")

    def table(self, run: "Run", name: str) -> list[dict[str, Any]]:
        """The rows of one of a run's tables; empty where it has none of that name."""
        found = json.loads(self.artifact(run, f"{TABLES}/{name}.json") or b'{"columns": [], "data": []}')
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]

    def result(self, run: "Run") -> StageResult:
        """The `dvc.lock` entry of a run's stage result."""
        experiment, stage = run.data.tags["quee.experiment"], run.data.tags["quee.stage"]
        content = yaml.safe_load(self.artifact(run, "dvc.lock") or b"") or {}
        return StageResult(experiment, stage, content.get(f"{stage}@{experiment}", {}))

    def maker(self, path: str, md5: str) -> str | None:
        """Run id of the stage result with the output `path` of this digest; the newest of several."""
        if (path, md5) not in self._by_output:
            query = f"tags.`{OUT}{path}` = '{md5}' and tags.`{COMPLETE}` = 'true' and tags.`quee.kind` = 'stage'"
            with asking(self.store.uri):
                found = self.store.runs(query)
            self._by_output[path, md5] = found[0].info.run_id if found else None
        return self._by_output[path, md5]

    def upstream(self, run: "Run") -> list["Run"]:
        """The stage runs that a run depends on, each once, itself last; raises UsageError where one is not tracked."""
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
            for path, md5 in named(stage.data.tags, DEP).items():
                if not path.startswith("artifacts/"):
                    continue
                if (maker := self.maker(path, md5)) is None:
                    raise UsageError(f"{stage.info.run_name} was made from {path} ({md5}), which is not tracked")
                after.setdefault(stage.info.run_id, []).append(maker)
                pending.append(self.run(maker))
        names = sorted(found, key=lambda run_id: str(found[run_id].info.run_name))
        graph = {run_id: sorted(after.get(run_id, []), key=names.index) for run_id in names}
        return [found[run_id] for run_id in TopologicalSorter(graph).static_order()]


def named(facts: dict[str, str], prefix: str) -> dict[str, str]:
    """The facts or tags with that prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in sorted(facts.items()) if name.startswith(prefix)}
