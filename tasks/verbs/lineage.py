"""The verb `quee lineage`: from a tracked run to commit, inputs, settings and machine, and from a file back to its run."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quee.cli import AsJson
from quee.errors import IntegrityError, UsageError
from tasks.dvc.lock import dvc_digest
from tasks.mlflow.journal import COMMIT, DIRTY, PATCH, PREFECT
from tasks.mlflow.memory import Memory, named
from tasks.mlflow.store import DEP, DIGEST, MADE, OUT
from tasks.work.differences import NONE

if TYPE_CHECKING:
    from tasks.mlflow.memory import Run

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
    """Name of the uncommitted differences, `none`, or why they are unknown."""
    dirty: bool
    prefect_run: str | None
    made: dict[str, str] = field(default_factory=dict)
    """Machine, versions, threads, time, by dotted name."""
    settings: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """Digests of inputs that no stage made: code, data, weights."""
    outputs: dict[str, str] = field(default_factory=dict)
    stages: list["Lineage"] = field(default_factory=list)
    """The stages it depends on, each after the stages that it read."""


def lineage(
    name: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="MLflow run id, or a file under artifacts/ or in a bundle.")
    ],
    json_: AsJson = False,
) -> None:
    """Show what made a result: commit, digests of every input, settings, Prefect run, machine, versions, threads."""
    found = chain_of(Path.cwd(), name)
    typer.echo(json.dumps(asdict(found), indent=1) if json_ else "\n".join(said(found)))


def chain_of(root: Path, name: str) -> Lineage:
    """The chain behind a run, or behind a file or folder under `artifacts/` or in a bundle.

    Raises UsageError for any other name, IntegrityError for a file of no tracked result.
    """
    memory = Memory(root)
    run = memory.run(find_run(memory, name))
    chain = [_described(memory, stage) for stage in memory.upstream(run)]
    result = _described(memory, run)
    for stage in chain:
        result.inputs |= stage.inputs
    result.stages = [stage for stage in chain if stage.run != result.run]
    return result


def _described(memory: Memory, run: "Run") -> Lineage:
    tags = memory.facts(run)
    deps = named(tags, DEP)
    if "quee.stage" in tags:
        deps |= memory.result(run).code
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
        made=named(tags, MADE),
        settings=dict(sorted(run.data.params.items())),
        inputs={path: md5 for path, md5 in deps.items() if not path.startswith("artifacts/")},
        outputs=named(tags, OUT),
    )


def find_run(memory: Memory, name: str) -> str:
    """Run id for `name`: a run id, or a file or folder of a result."""
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
        f"{folder} ({md5}) is of no tracked result: `quee track` tracks a new one; one that was changed has no lineage"
    )


def _result_folder(root: Path, path: Path) -> tuple[Path, str]:
    """The folder of the stage's result that a file belongs to, and its recorded path."""
    whole = path.parent.resolve() / path.name  # the file itself may be a link into DVC's cache
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
    """The chain as lines of text."""
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
    if result.patch in (None, NONE):
        return f"git {result.commit}{' with differences that were not kept' if result.dirty else ''}"
    return f"git {result.commit} and uncommitted differences: {result.patch}"
