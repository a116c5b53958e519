"""What made a result: from a tracked run to commit, inputs, settings and machine, and from a file back to its run."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quee.errors import IntegrityError, UsageError
from tasks._tracking_index import COMPLETE, DIGEST, PREFIX, sqlite_file, tracking_uri
from tasks._tracking_journal import COMMIT, DIRTY, PATCH, PREFECT
from tasks._tracking_lock import dvc_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEP, OUT, MADE, STAGE_RUN = "quee.dep.", "quee.out.", "quee.made.", "stage_run."
RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass
class Lineage:
    """The chain behind one tracked result."""

    run: str
    title: str
    kind: str
    """`stage` or `experiment`."""
    experiment: str
    stage: str | None
    digest: str
    commit: str | None
    patch: str | None
    """Name of the uncommitted differences, `none`, or why they are not known."""
    dirty: bool
    prefect_run: str | None
    made: dict[str, str] = field(default_factory=dict)
    """Machine, versions, threads, time, by dotted name."""
    settings: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """DVC digest of everything read that no stage made: code, data, weights."""
    outputs: dict[str, str] = field(default_factory=dict)
    stages: list["Lineage"] = field(default_factory=list)
    """The stages it rests on, in the order in which they ran."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Memory:
    """The tracking store, read by run and by digest."""

    def __init__(self, root: Path) -> None:
        """Raises UsageError when nothing is tracked yet."""
        from tasks.tracking import open_store

        self.root = root
        uri = tracking_uri(root)
        file = sqlite_file(uri)
        if file and not file.is_file():
            raise UsageError(f"nothing is tracked in {file}: run `quee track`, or set MLFLOW_TRACKING_URI")
        self.client: MlflowClient = open_store(root, uri).client
        self._by_output: dict[tuple[str, str], str | None] = {}

    def run(self, run_id: str) -> "Run":
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            raise UsageError(f"unknown MLflow run {run_id!r} ({' '.join(str(error).split())[:200]})") from None
        if DIGEST not in run.data.tags:
            raise UsageError(f"MLflow run {run_id} is no result that quee tracked")
        return run

    def maker(self, path: str, md5: str) -> str | None:
        """Run id of the stage result that left `path` with this digest; the newest of several."""
        if (path, md5) not in self._by_output:
            experiment = Path(path).parts[1]
            known = self.client.get_experiment_by_name(f"{PREFIX}{experiment}")
            query = f"tags.`{OUT}{path}` = '{md5}' and tags.`{COMPLETE}` = 'true' and tags.`quee.kind` = 'stage'"
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


def lineage(root: Path, name: str) -> Lineage:
    """The chain behind a run, or behind a file or folder under `artifacts/` or in a bundle.

    Raises UsageError on anything else, IntegrityError on a file that is of no tracked result.
    """
    memory = Memory(root)
    run = memory.run(find_run(memory, name))
    chain = [_described(stage) for stage in memory.upstream(run)]
    result = _described(run)
    for stage in chain:
        result.inputs |= stage.inputs
    result.stages = [stage for stage in chain if stage.run != result.run]
    return result


def _described(run: "Run") -> Lineage:
    tags = run.data.tags
    deps = named(run, DEP)
    return Lineage(
        run=run.info.run_id,
        title=run.info.run_name,
        kind=tags.get("quee.kind", ""),
        experiment=tags.get("quee.experiment", ""),
        stage=tags.get("quee.stage"),
        digest=tags[DIGEST],
        commit=tags.get(COMMIT),
        patch=tags.get(PATCH),
        dirty=tags.get(DIRTY) == "true",
        prefect_run=tags.get(PREFECT),
        made=named(run, MADE),
        settings=dict(sorted(run.data.params.items())),
        inputs={path: md5 for path, md5 in deps.items() if not path.startswith("artifacts/")},
        outputs=named(run, OUT),
    )


def find_run(memory: Memory, name: str) -> str:
    """Run id of what `name` names: a run id, or a file or folder of a result."""
    path = Path(name)
    if not path.exists() and RUN_ID.fullmatch(name):
        return name
    if not path.exists():
        raise UsageError(f"{name!r} is neither an MLflow run id nor a file or folder here")
    folder, recorded = _result_folder(memory.root, path)
    md5 = dvc_digest(folder)
    if run_id := memory.maker(recorded, md5):
        return run_id
    raise IntegrityError(
        f"{folder} ({md5}) is of no tracked result: `quee track` tracks a new one, and one that was changed has no lineage"
    )


def _result_folder(root: Path, path: Path) -> tuple[Path, str]:
    """The folder of a stage's result that a file belongs to, and the path by which results record it."""
    whole = path.resolve()
    artifacts = (root / "artifacts").resolve()
    if whole.is_relative_to(artifacts) and len(parts := whole.relative_to(artifacts).parts) >= 2:
        return artifacts / parts[0] / parts[1], f"artifacts/{parts[0]}/{parts[1]}"
    for folder in (whole, *whole.parents):
        file = folder / "bundle.json"
        if file.is_file():
            try:
                experiment = str(json.loads(file.read_text(encoding="utf-8"))["experiment"])
            except (ValueError, KeyError, TypeError):
                raise IntegrityError(f"{file} does not say of which experiment it is") from None
            return folder, f"artifacts/{experiment}/bundle"
    raise UsageError(f"{path} is neither under artifacts/EXPERIMENT/STAGE/ nor in a bundle")


def said(result: Lineage) -> list[str]:
    """The chain in lines for people."""
    lines = [f"{result.title}  (MLflow run {result.run})", f"  code      {_code(result)}"]
    lines += [f"  prefect   flow run {result.prefect_run}"] if result.prefect_run else []
    for group in ("machine", "threads", "versions"):
        facts = {n.partition(".")[2]: v for n, v in result.made.items() if n.startswith(f"{group}.")}
        if facts:
            lines.append(f"  {group:<9} {', '.join(f'{name} {value}' for name, value in facts.items())}")
    when = ", ".join(
        f"{result.made[key]}{unit}" for key, unit in (("started", ""), ("seconds", " s")) if key in result.made
    )
    lines += [f"  when      {when}"] if when else []
    lines.append("  settings")
    lines += [f"    {name} = {value}" for name, value in result.settings.items()]
    lines.append("  inputs")
    lines += [f"    {md5:<36}  {path}" for path, md5 in sorted(result.inputs.items())]
    lines.append("  outputs")
    lines += [f"    {md5:<36}  {path}" for path, md5 in sorted(result.outputs.items())]
    if result.stages:
        lines.append("  rests on")
        for stage in result.stages:
            other = "" if (stage.commit, stage.patch) == (result.commit, result.patch) else f"  {_code(stage)}"
            lines.append(f"    {stage.title:<28} run {stage.run}{other}")
    return lines


def _code(result: Lineage) -> str:
    if result.commit is None:
        return "not known (made outside git)"
    if not result.made:
        return (
            f"not known; git {result.commit}{' with differences' if result.dirty else ''} lay here when it was tracked"
        )
    if result.patch in (None, "none"):
        return f"git {result.commit}{' with differences that were not kept' if result.dirty else ''}"
    return f"git {result.commit} and uncommitted differences: {result.patch}"
