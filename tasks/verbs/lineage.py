"""Verbs of `quee` that answer for a number: `lineage`, `reproduce`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quee.errors import IntegrityError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def lineage(
    name: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="MLflow run id, or a file under artifacts/ or in a bundle.")
    ],
    json_: AsJson = False,
) -> None:
    """Show what made a result: commit, digests of every input, settings, Prefect run, machine, versions, threads."""
    from tasks.verbs.history import lineage as chain_of
    from tasks.verbs.history import said

    found = chain_of(Path.cwd(), name)
    typer.echo(json.dumps(found.to_json(), indent=1) if json_ else "\n".join(said(found)))


def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="MLflow run id, or a file under artifacts/ or in a bundle.")
    ],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Take what comes before from DVC's cache or a remote."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the worktree where it is.")] = False,
    json_: AsJson = False,
) -> None:
    """Make a result again from what is remembered of it, in a temporary worktree; exit 4 when a digest differs."""
    from tasks.mlflow.memory import Memory
    from tasks.verbs.history import find_run
    from tasks.verbs.reproduction import reproduce as make_again

    root = Path.cwd()
    run_id = find_run(Memory(root), name)
    made = make_again(root, run_id, lambda message: typer.echo(message, err=json_), keep, start)
    compared = made.compared
    if json_:
        stages = [{"stage": c.stage, "equal": c.equal, "recorded": c.recorded, "now": c.now} for c in compared]
        equal = all(c.equal for c in compared)
        typer.echo(json.dumps({"run": run_id, "equal": equal, "stages": stages, "taken": made.taken}, indent=1))
    differing = [c.stage for c in compared if not c.equal]
    if differing:
        raise IntegrityError(
            f"{len(differing)} of {len(compared)} stages came out with other digests: {', '.join(differing)} "
            "(another processor or other library versions give other last bits; `quee lineage` has those of the run)"
        )
    if not json_:
        rest = f"; taken as recorded: {', '.join(made.taken)}" if made.taken else ""
        typer.echo(f"all {len(compared)} stages came out with the recorded digests{rest}")
