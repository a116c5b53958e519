"""Facts of the execution behind a result, as tags of its run: user, time, machine, versions."""

from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.dvc.lock import ExperimentResult, StageResult
from tasks.mlflow.store import MADE
from tasks.mlflow.values import leaves
from tasks.work import journal
from tasks.work.differences import Snapshot, snapshot

COMMIT, PATCH, DIRTY = "mlflow.source.git.commit", "quee.git.patch", "quee.git.dirty"
"""Tags: the commit, the name of the patch on top of it (artifact DIFFERENCES), and whether there is a patch."""

DIFFERENCES = "uncommitted.patch"
"""Artifact with the differences of the code from the commit."""

PREFECT = "prefect.flow_run_id"

SLACK = 5.0
"""Seconds by which files may be younger than their stage's journal record says."""


class Journal:
    """The executions in `.quee/journal/`, read once on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return [
            record for record in journal.records(self.root) if record.get("status") == "done" and "limit" not in record
        ]

    def of(self, result: StageResult) -> dict[str, Any]:
        """`start`, `end` (seconds since 1970) and `tags` of the execution that made a result; empty when unknown.

        For a result restored from DVC's cache, no record's time agrees with the files, so nothing is known.
        """
        files = [file for path in result.outs for file in _files(self.root / path)]
        newest = max((file.stat().st_mtime for file in files), default=0.0)
        for record in self.records:
            if (record.get("experiment"), record.get("stage")) == (result.experiment, result.stage):
                start, end = float(record["start"]), float(record["end"])
                if start - SLACK <= newest <= end + SLACK:
                    return {"start": start, "end": end, "tags": _tags(record)}
        return {}

    def of_experiment(self, result: ExperimentResult) -> dict[str, Any]:
        """The span over the stages whose executions are known, and the tags on which they agree."""
        made = [found for stage in result.stages.values() if (found := self.of(stage))]
        if not made:
            return {}
        names = set.intersection(*(set(found["tags"]) for found in made))
        tags = {name: made[0]["tags"][name] for name in sorted(names) if len({f["tags"][name] for f in made}) == 1}
        if not {COMMIT, PATCH} <= set(tags):  # made at several states of the code, so none of them made the whole
            tags = {name: value for name, value in tags.items() if name not in (COMMIT, PATCH, DIRTY)}
        seconds = sum(found["end"] - found["start"] for found in made)
        return {
            "start": min(found["start"] for found in made),
            "end": max(found["end"] for found in made),
            "tags": {**tags, "quee.seconds": f"{seconds:.1f}"},
        }


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _tags(record: dict[str, Any]) -> dict[str, str]:
    """All facts of a record as tags; nested names are joined by dots."""
    skipped = ("experiment", "stage", "status", "pid", "start", "end", "git_commit", "git_patch")
    found = {name: value for name, value in leaves(record) if name not in skipped and value not in (None, {})}
    tags = {f"{MADE}{name}"[:250]: str(value)[:5000] for name, value in found.items()}
    if record.get("prefect_run"):
        tags[PREFECT] = str(record["prefect_run"])
    if record.get("git_commit") and record.get("git_patch"):
        tags |= code_tags(Snapshot(record["git_commit"], record["git_patch"]))
    elif record.get("git_commit"):
        tags |= {COMMIT: str(record["git_commit"]), PATCH: "not known"}
    return tags


def code_tags(code: Snapshot) -> dict[str, str]:
    return {COMMIT: code.commit, PATCH: code.patch, DIRTY: "true" if code.dirty else "false"}


def git_tags(root: Path) -> dict[str, str]:
    """The commit checked out now and the differences from it; empty outside git."""
    code = snapshot(root)
    return code_tags(code) if code else {}
